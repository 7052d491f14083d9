package sync

import (
	"context"
	"errors"
	"net/netip"
	gosync "sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

// conntrack is a table of connections that a test fills.
type conntrack struct {
	*ipvs.Fake
	mu    gosync.Mutex
	reads int
	conns map[ipvs.ConnKey]*ipvs.ConnCount
	err   error
}

func (c *conntrack) Connections(context.Context) (map[ipvs.ConnKey]*ipvs.ConnCount, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	return c.conns, c.err
}

func (c *conntrack) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// observedServer is one whose switch to v2 is observed.
func observedServer(active string, v2 int) endpoints.Server {
	s := server(active, map[string]int{"v1": 2, "v2": v2})
	s.Spec.Switch.Observe = &v1alpha1.Observe{}
	vs := v1alpha1.VirtualServer{Spec: *s.Spec}
	v1alpha1.Default(&vs)
	s.Spec = &vs.Spec
	return s
}

// refused has so many connections refused at each real server of v2, in a virtual server.
func (b *bench) refused(key ipvs.Key, real ipvs.RealKey, conns int) {
	n := uint64(conns)
	b.kernel.SetReal(key, real, ipvs.RealInfo{Counters: &ipvs.Counters{Conns: n, InPackets: n, OutPackets: n, InBytes: 60 * n, OutBytes: 40 * n}})
}

func v2Real(n int) ipvs.RealKey {
	return ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 244, 2, byte(n)}), Port: 8080}
}

// watches has a bench watch connections, at the times that the test says.
func (b *bench) watches(t *testing.T, c *conntrack) (look func(at time.Duration)) {
	ctx, cancel := context.WithCancel(b.ctx)
	t.Cleanup(cancel)
	c.Fake = b.kernel
	b.watcher = newWatcher(ctx, c, b.Log)
	b.watcher.awake = true // no goroutine of its own
	began := time.Now()
	return func(at time.Duration) { b.watcher.look(b.watcher.wanted, began.Add(at)) }
}

// While a switch is observed its connections are watched, in the virtual servers of every way in and in the lanes; what
// does not serve is in the status, in words that stay, and has the switch undone after five seconds.
func TestSignsUndoASwitch(t *testing.T) {
	b := newBench(t, t.TempDir())
	look := b.watches(t, &conntrack{conns: map[ipvs.ConnKey]*ipvs.ConnCount{}})
	b.declare(t, observedServer("v1", 2))
	require.Empty(t, b.watcher.wanted, "nothing is watched at rest")
	require.Equal(t, v1alpha1.PhaseObserving, b.declare(t, observedServer("v2", 2)).Server(owner).Status.Phase)
	require.Len(t, b.watcher.wanted, 1)
	of := b.watcher.wanted[owner]
	assert.Equal(t, "v2", of.colour)
	assert.Zero(t, of.spare, "of two, 80 % are two")
	var way ipvs.Key
	for _, key := range of.keys {
		if key.Mark == 0 && key.Port == 30080 {
			way = key
		}
	}
	require.Equal(t, "TCP 192.0.2.10:30080", way.String())

	look(0)
	b.refused(way, v2Real(1), 5)
	look(time.Second)
	assert.Empty(t, b.watcher.signsOf(owner, "v2"), "two readings are to be three seconds apart")
	look(3 * time.Second)
	signs := b.watcher.signsOf(owner, "v2")
	assert.Equal(t, []v1alpha1.Sign{{Colour: "v2", Reason: "Refusing", Message: "connections are refused, at 10.244.2.1:8080"}}, signs)
	assert.Empty(t, b.watcher.signsOf(owner, "v1"))
	require.Len(t, b.watcher.changed, 1)
	<-b.watcher.changed
	b.settle()
	status, err := LoadStatus(b.StateDir)
	require.NoError(t, err)
	assert.Equal(t, signs, status.Server(owner).Signs)
	b.settle() // the rollout is told what was read back
	s := b.declare(t, observedServer("v2", 2)).Server(owner)
	assert.Equal(t, "ConnectionsFail", s.Status.Reason, "%+v", s.Status)

	// Another real server has it too: that is no news, and nothing is written for it.
	b.refused(way, v2Real(1), 30)
	b.refused(way, v2Real(2), 30)
	look(4 * time.Second)
	assert.Equal(t, signs, b.watcher.signsOf(owner, "v2"))
	assert.Empty(t, b.watcher.changed)

	state := b.ledger.Rollouts[owner]
	require.False(t, state.Failing.IsZero())
	state.Failing = state.Failing.Add(-6 * time.Second)
	b.ledger.Rollouts[owner] = state
	s = b.declare(t, observedServer("v2", 2)).Server(owner)
	assert.Equal(t, v1alpha1.PhaseRolledBack, s.Status.Phase)
	assert.Equal(t, "v1", s.Status.Active)
	assert.Contains(t, s.Status.Message, "connections to v2 fail, by the kernel's counters: mast01: connections are refused, at 10.244.2.1:8080")
	assert.Empty(t, s.Signs)
	assert.Empty(t, b.watcher.wanted)
}

func TestSignsFollowWhatIsDeclared(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.watches(t, &conntrack{})
	b.declare(t, observedServer("v1", 10))
	s := observedServer("v2", 10)
	no := false
	s.Spec.Switch.Observe.Connections = &no
	require.Equal(t, v1alpha1.PhaseObserving, b.declare(t, s).Server(owner).Status.Phase)
	assert.Empty(t, b.watcher.wanted, "not wanted")
	b.declare(t, observedServer("v2", 10))
	require.Len(t, b.watcher.wanted, 1)
	assert.Equal(t, 2, b.watcher.wanted[owner].spare, "of ten, 80 % are eight")
}

// Counters are compared by real server in its virtual server: one that comes, as in a cut-over, counts from zero, and one that
// goes takes nothing of what the others have counted.
func TestSignsOverACutOver(t *testing.T) {
	b := newBench(t, t.TempDir())
	look := b.watches(t, &conntrack{conns: map[ipvs.ConnKey]*ipvs.ConnCount{}})
	b.declare(t, observedServer("v1", 2))
	b.declare(t, observedServer("v2", 2))
	of := b.watcher.wanted[owner]
	lane, way := ipvs.Key{Mark: 77, Addr: netip.IPv4Unspecified()}, of.keys[len(of.keys)-1]
	require.Zero(t, way.Mark)
	of.keys = append(of.keys, lane)
	for n := 1; n <= 2; n++ {
		of.reals[realOf{lane, v2Real(n)}] = netip.AddrPortFrom(v2Real(n).Addr, 8080)
	}
	// What worked, long ago, by the lane.
	require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{
		{Verb: ipvs.AddService, Service: ipvs.Service{Key: lane, Scheduler: "rr", Netmask: 0xffffffff}},
		{Verb: ipvs.AddReal, Service: ipvs.Service{Key: lane}, Real: ipvs.RealServer{RealKey: v2Real(1)}},
	}))
	b.kernel.SetReal(lane, v2Real(1), ipvs.RealInfo{Counters: &ipvs.Counters{Conns: 100, InPackets: 500, OutPackets: 400, OutBytes: 1 << 20}})
	b.refused(way, v2Real(1), 1000)
	look(0)
	b.refused(way, v2Real(1), 1004)
	look(3 * time.Second)
	assert.Empty(t, b.watcher.signsOf(owner, "v2"), "four since")
	require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: ipvs.Service{Key: lane}}}))
	b.refused(way, v2Real(1), 1009)
	look(6 * time.Second)
	require.NotEmpty(t, b.watcher.signsOf(owner, "v2"))
	look(30 * time.Second)
	assert.Empty(t, b.watcher.signsOf(owner, "v2"), "nothing since")
	b.refused(way, v2Real(1), 5) // made anew
	look(34 * time.Second)
	assert.NotEmpty(t, b.watcher.signsOf(owner, "v2"))
}

// Connections are found by what the client connected to and where they went, and by nothing else.
func TestSignsOfTheTableOfConnections(t *testing.T) {
	b := newBench(t, t.TempDir())
	conns := &conntrack{}
	look := b.watches(t, conns)
	b.declare(t, observedServer("v1", 2))
	b.declare(t, observedServer("v2", 2))
	way := b.watcher.wanted[owner].keys[len(b.watcher.wanted[owner].keys)-1]
	at := ipvs.ConnKey{Protocol: ipvs.TCP, Virtual: netip.AddrPortFrom(way.Addr, way.Port), Real: netip.AddrPortFrom(v2Real(1).Addr, 8080)}
	closed := func(n uint32) *ipvs.ConnCount {
		c := &ipvs.ConnCount{Total: n}
		c.TCP[ipvs.TCPClose] = n
		return c
	}
	reset := func(n uint64) { // accepted and reset
		b.kernel.SetReal(way, v2Real(1), ipvs.RealInfo{Counters: &ipvs.Counters{Conns: n, InPackets: 2 * n, OutPackets: 2 * n, OutBytes: n * (60 + 52)}})
	}
	elsewhere := at
	elsewhere.Virtual = netip.MustParseAddrPort("203.0.113.1:80")
	other := at
	other.Protocol = ipvs.UDP
	conns.conns = map[ipvs.ConnKey]*ipvs.ConnCount{elsewhere: closed(20), other: closed(20)}
	look(0)
	reset(20)
	look(3 * time.Second)
	assert.Empty(t, b.watcher.signsOf(owner, "v2"), "somebody else's connections")
	conns.conns = map[ipvs.ConnKey]*ipvs.ConnCount{at: closed(20)}
	look(3 * time.Second)
	require.Len(t, b.watcher.signsOf(owner, "v2"), 1)
	assert.Equal(t, "Resetting", b.watcher.signsOf(owner, "v2")[0].Reason)

	// Without the table the counters tell less. What it told stays for a while.
	conns.err = errors.New("too long")
	reset(40)
	look(6 * time.Second)
	assert.Len(t, b.watcher.signsOf(owner, "v2"), 1)
	assert.Equal(t, "too long", b.watcher.troubled)
	reset(60)
	look(14 * time.Second)
	assert.Empty(t, b.watcher.signsOf(owner, "v2"))
	b.refused(way, v2Real(2), 20)
	look(15 * time.Second)
	require.Len(t, b.watcher.signsOf(owner, "v2"), 1)
	assert.Equal(t, "Refusing", b.watcher.signsOf(owner, "v2")[0].Reason)
}

// There is a goroutine while something is watched, and none at rest.
func TestNothingIsReadAtRest(t *testing.T) {
	b := newBench(t, t.TempDir())
	conns := &conntrack{Fake: b.kernel, conns: map[ipvs.ConnKey]*ipvs.ConnCount{}}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	w := newWatcher(ctx, conns, b.Log)
	w.set(nil)
	require.False(t, w.awake)
	w.set(map[types.NamespacedName]*watched{owner: {colour: "v2"}})
	require.Eventually(t, func() bool { return conns.count() >= 2 }, time.Minute, 10*time.Millisecond)
	w.set(nil)
	w.running.Wait()
	require.False(t, w.awake)
	reads := conns.count()
	w.set(map[types.NamespacedName]*watched{owner: {colour: "v2"}})
	require.Eventually(t, func() bool { return conns.count() > reads }, time.Minute, 10*time.Millisecond)
	cancel()
	w.running.Wait()
}
