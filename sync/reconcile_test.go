package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// bench is a reconciler over the semantic fakes, driven pass by pass.
type bench struct {
	*Reconciler
	kernel *ipvs.Fake
	rules  *nft.Fake
	node   *node.Fake
	source *source
	ctx    context.Context
}

type source struct {
	snap *endpoints.Snapshot
	ch   chan struct{}
}

func (s *source) Snapshot() *endpoints.Snapshot { return s.snap }
func (s *source) Changed() <-chan struct{}      { return s.ch }
func (s *source) Failures() uint64              { return 0 }

// server is a VirtualServer whose colours have so many ready endpoints.
func server(active string, ready map[string]int) endpoints.Server {
	vs := v1alpha1.VirtualServer{Spec: v1alpha1.VirtualServerSpec{Active: active, Service: v1alpha1.ServiceReference{Name: "myapp"}}}
	v1alpha1.Default(&vs)
	p := endpoints.Port{Protocol: corev1.ProtocolTCP, Ways: []endpoints.Way{
		{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30080},
		{Kind: endpoints.ClusterIP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 80},
	}}
	for i, colour := range []string{"v1", "v2", "v3"} {
		for n := range ready[colour] {
			p.Endpoints = append(p.Endpoints, endpoints.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, 244, byte(i + 1), byte(n + 1)}), Port: 8080, Colour: colour, Ready: true, Serving: true,
			})
		}
	}
	return endpoints.Server{Key: owner, Spec: &vs.Spec, Digest: active, Ports: []endpoints.Port{p}}
}

func newBench(t *testing.T, stateDir string) *bench {
	log := logrus.New()
	log.SetOutput(io.Discard)
	b := &bench{
		kernel: ipvs.NewFake(), rules: &nft.Fake{}, node: &node.Fake{},
		source: &source{ch: make(chan struct{}, 1)}, ctx: context.Background(),
	}
	b.node.SetAddresses(netip.MustParseAddr("192.0.2.10"))
	b.Reconciler = &Reconciler{
		Config: Config{NodeName: "mast01", StateDir: stateDir},
		IPVS:   b.kernel, NFT: b.rules, Node: b.node, Source: b.source, Changes: b.kernel, Log: log,
	}
	b.restart(t)
	return b
}

// restart forgets all but the kernel and the state directory.
func (b *bench) restart(t *testing.T) {
	ledger, err := LoadLedger(b.StateDir)
	require.NoError(t, err)
	b.Reconciler = &Reconciler{
		Config: b.Config, IPVS: b.IPVS, NFT: b.NFT, Node: b.Node, Source: b.Source, Changes: b.Changes, Log: b.Log, ledger: ledger,
	}
	b.store.dir, b.status.dir = b.StateDir, b.StateDir
}

// declare makes passes over what is declared now, until rollouts wait for something else.
func (b *bench) declare(t *testing.T, servers ...endpoints.Server) *Status {
	servers = slices.Clone(servers) // a Snapshot never changes
	for i := range servers {
		servers[i].Spec = servers[i].Spec.DeepCopy()
	}
	b.source.snap = &endpoints.Snapshot{Servers: servers}
	b.settle()
	status, err := LoadStatus(b.StateDir)
	require.NoError(t, err)
	return status
}

func (b *bench) settle() {
	for range 10 {
		b.pass(b.ctx, true)
		if at := b.rollouts.dueAt; at.IsZero() || at.After(time.Now()) {
			return
		}
	}
}

// serving is the table as "key: weights by real server".
func (b *bench) serving(t *testing.T) map[string]map[string]uint32 {
	out := map[string]map[string]uint32{}
	for key, s := range tableOf(t, b.kernel) {
		out[key.String()] = map[string]uint32{}
		for _, r := range s.Reals {
			out[key.String()][r.RealKey.String()] = r.Weight
		}
	}
	return out
}

func (b *bench) busy(colour, n int) {
	for key := range b.target.Servers {
		real := ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 244, byte(colour), byte(n)}), Port: 8080}
		b.kernel.SetReal(key, real, ipvs.RealInfo{Active: 1})
	}
}

// addressed says, when the ClusterIP comes or goes, whether a virtual server has it.
type addressed struct {
	*node.Fake
	t      *testing.T
	kernel *ipvs.Fake
	ops    []string
}

func (a *addressed) ApplyDevice(ops []node.DeviceOp) error {
	_, served := tableOf(a.t, a.kernel)[ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}]
	for _, op := range ops {
		if op.Verb >= node.AddAddress { // those before make the device
			a.ops = append(a.ops, fmt.Sprintf("%s: %v", op, served))
		}
	}
	return a.Fake.ApplyDevice(ops)
}

// TestNoAddressWithoutVirtualServer: a node refuses connections to an address that it has and does not serve.
func TestNoAddressWithoutVirtualServer(t *testing.T) {
	b := newBench(t, t.TempDir())
	a := &addressed{Fake: b.node, t: t, kernel: b.kernel}
	b.Node = a
	b.declare(t, server("v1", map[string]int{"v1": 2}))
	assert.Equal(t, []string{"ip addr add 10.96.0.10/32 dev pointsman0 scope host: true"}, a.ops)
	a.ops = nil
	b.busy(1, 1)
	b.declare(t)
	assert.Empty(t, a.ops, "it drains")
	for key := range tableOf(t, b.kernel) {
		b.kernel.SetReal(key, ipvs.RealKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, ipvs.RealInfo{})
	}
	b.declare(t)
	assert.Equal(t, []string{"ip link del pointsman0: false"}, a.ops)
}

func TestPassServesTheActiveColourEveryWayIn(t *testing.T) {
	b := newBench(t, t.TempDir())
	status := b.declare(t, server("v1", map[string]int{"v1": 2, "v2": 1}))
	want := map[string]uint32{"10.244.1.1:8080": 1, "10.244.1.2:8080": 1}
	assert.Equal(t, map[string]map[string]uint32{"TCP 192.0.2.10:30080": want, "TCP 10.96.0.10:80": want}, b.serving(t))
	s := status.Server(owner)
	require.NotNil(t, s)
	assert.True(t, s.Verified)
	assert.Equal(t, "v1", s.Status.Active)
	rules, state, err := b.rules.Read()
	require.NoError(t, err)
	assert.True(t, state.Intact)
	assert.Equal(t, map[nft.Endpoint]nft.Masquerade{
		{Protocol: 6, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}: nft.Always,
		{Protocol: 6, Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}:    nft.ClusterIP,
	}, rules.Virtual)
	device, err := b.node.ReadDevice()
	require.NoError(t, err)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("10.96.0.10")}, device.Addresses)
}

func TestSwitchDrainsAndComesBack(t *testing.T) {
	b := newBench(t, t.TempDir())
	both := map[string]int{"v1": 1, "v2": 1}
	b.declare(t, server("v1", both))
	b.busy(1, 1)
	s := b.declare(t, server("v2", both)).Server(owner)
	assert.True(t, s.Verified)
	assert.Equal(t, map[string]uint32{"10.244.1.1:8080": 0, "10.244.2.1:8080": 1}, b.serving(t)["TCP 192.0.2.10:30080"])
	require.Len(t, s.Draining, 2, "one for each way in")
	assert.Equal(t, "v1", s.Draining[0].Colour)
	b.declare(t, server("v1", both))
	assert.Equal(t, map[string]uint32{"10.244.1.1:8080": 1}, b.serving(t)["TCP 192.0.2.10:30080"], "v2 had no connection")
	assert.Equal(t, "v2", b.ledger.Rollouts[owner].Retiring)
	assert.Empty(t, b.ledger.Rollouts[owner].Previous, "what was gone back from is no rollback")
}

func TestDrainDeadline(t *testing.T) {
	for _, action := range []v1alpha1.DrainAction{v1alpha1.DrainKeep, v1alpha1.DrainCut} {
		t.Run(string(action), func(t *testing.T) {
			b := newBench(t, t.TempDir())
			declared := server("v1", map[string]int{"v1": 1, "v2": 1})
			declared.Spec.Switch.Drain.Timeout = &metav1.Duration{Duration: 50 * time.Millisecond}
			declared.Spec.Switch.Drain.OnTimeout = action
			b.declare(t, declared)
			b.busy(1, 1)
			declared.Spec.Active = "v2"
			b.declare(t, declared)
			require.Contains(t, b.serving(t)["TCP 10.96.0.10:80"], "10.244.1.1:8080", "not before the deadline")
			b.restart(t) // the deadline runs on
			time.Sleep(60 * time.Millisecond)
			b.declare(t, declared)
			_, left := b.serving(t)["TCP 10.96.0.10:80"]["10.244.1.1:8080"]
			assert.Equal(t, action == v1alpha1.DrainKeep, left)
		})
	}
}

func TestSwitchToNothingReadyIsBlocked(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", map[string]int{"v1": 1}))
	before := b.serving(t)
	s := b.declare(t, server("v2", map[string]int{"v1": 1})).Server(owner)
	assert.Equal(t, before, b.serving(t))
	assert.Equal(t, v1alpha1.PhaseBlocked, s.Status.Phase)
	assert.Equal(t, "v1", s.Status.Active)
	assert.Contains(t, meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionSwitched).Message, `colour "v2" has no ready endpoint`)
}

func TestRestartOverARightKernelWritesNothing(t *testing.T) {
	b := newBench(t, t.TempDir())
	s := server("v1", map[string]int{"v1": 2})
	b.declare(t, s)
	writes := 0
	b.kernel.Intercept(func(int, ipvs.Op) error { writes++; return nil })
	generation, err := b.rules.Generation()
	require.NoError(t, err)
	nodeWrites := b.node.Writes()
	b.restart(t)
	assert.True(t, b.declare(t, s).Server(owner).Verified)
	after, err := b.rules.Generation()
	require.NoError(t, err)
	assert.Zero(t, writes)
	assert.Equal(t, generation, after)
	assert.Equal(t, nodeWrites, b.node.Writes())
}

// counting counts what a table is asked.
type counting struct {
	IPVS
	whole, services, reals, batches, ops int
	before                               func() // each Apply
}

// done is what was called since the last time it was asked.
func (c *counting) done() [5]int {
	d := [5]int{c.whole, c.services, c.reals, c.batches, c.ops}
	c.whole, c.services, c.reals, c.batches, c.ops = 0, 0, 0, 0, 0
	return d
}

func (c *counting) Read(ctx context.Context) ([]ipvs.ServiceInfo, error) {
	c.whole++
	return c.IPVS.Read(ctx)
}

func (c *counting) Services(ctx context.Context) ([]ipvs.ServiceInfo, error) {
	c.services++
	return c.IPVS.Services(ctx)
}

func (c *counting) RealServers(ctx context.Context, key ipvs.Key) ([]ipvs.RealInfo, error) {
	c.reals++
	return c.IPVS.RealServers(ctx, key)
}

func (c *counting) Apply(ctx context.Context, ops []ipvs.Op) error {
	if c.before != nil {
		c.before()
	}
	c.batches, c.ops = c.batches+1, c.ops+len(ops)
	return c.IPVS.Apply(ctx, ops)
}

// One changed endpoint among many virtual servers costs its own reading and one write, and what is
// read that way is the same as the whole table.
func TestAChangeCostsWhatItChanges(t *testing.T) {
	b := newBench(t, t.TempDir())
	var servers []endpoints.Server
	for n := range 100 {
		s := server("v1", map[string]int{"v1": 3})
		s.Key.Name = fmt.Sprintf("app-%d", n)
		s.Ports[0].Ways = []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: uint16(30000 + n)}}
		servers = append(servers, s)
	}
	b.declare(t, servers...)
	c := &counting{IPVS: b.kernel}
	b.IPVS = c
	changed := server("v1", map[string]int{"v1": 4})
	changed.Key, changed.Ports[0].Ways = servers[7].Key, servers[7].Ports[0].Ways
	servers[7] = changed
	status := b.declare(t, servers...)
	assert.True(t, status.Server(changed.Key).Verified)
	assert.Equal(t, [5]int{0, 0, 2, 1, 1}, c.done(), "whole tables, lists and real servers read; batches and ops written")

	// Made, changed and removed in one go.
	servers[3].Spec.Scheduler.Name, servers[3].Digest = "wrr", "changed"
	added := server("v1", map[string]int{"v1": 1})
	added.Key.Name, added.Ports[0].Ways = "added", []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 31000}}
	b.declare(t, append([]endpoints.Server{added}, servers[1:]...)...)
	assert.Zero(t, c.whole)
	whole, err := b.kernel.Read(b.ctx)
	require.NoError(t, err)
	assert.ElementsMatch(t, whole, b.table.services)
	for key, i := range b.table.at {
		assert.Equal(t, key, b.table.services[i].Key)
	}
}

// At rest a look for drift reads nothing of the table; what drains is read by itself; and after a change by
// somebody else, also one that comes just before a write of ours, everything is.
func TestRestCostsNothing(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.NodeChanged = make(chan struct{})
	both := map[string]int{"v1": 2, "v2": 2}
	b.declare(t, server("v1", both))
	c := &counting{IPVS: b.kernel}
	b.IPVS = c
	// Whole tables, lists and real servers read; batches and ops written.
	look := func() [5]int {
		c.done()
		b.pass(b.ctx, false)
		return c.done()
	}
	nothing := [5]int{}
	assert.Equal(t, nothing, look())

	b.busy(1, 1)
	b.declare(t, server("v2", both))
	assert.Equal(t, [5]int{0, 0, 2, 0, 0}, look(), "one real server drains in each of two virtual servers")
	for key := range b.target.Servers {
		b.kernel.SetReal(key, ipvs.RealKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, ipvs.RealInfo{})
	}
	assert.Equal(t, [5]int{0, 0, 4, 1, 2}, look())
	assert.Equal(t, nothing, look())

	right := b.serving(t)
	flush := func() {
		var ops []ipvs.Op
		for _, s := range tableOf(t, b.kernel) {
			ops = append(ops, ipvs.Op{Verb: ipvs.DelService, Service: s.Service})
		}
		require.NoError(t, b.kernel.Apply(b.ctx, ops))
	}
	flush()
	assert.Equal(t, 1, look()[0])
	assert.Equal(t, right, b.serving(t))

	// Somebody else's change between our reading and our writing is not taken for ours.
	idle := server("v1", both)
	idle.Key.Name = "idle"
	idle.Ports[0].Ways = []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30081}}
	b.declare(t, idle, server("v2", both))
	other := ipvs.Service{Key: ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30081}}
	wrong := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, Weight: 9}
	c.before = func() {
		c.before = nil
		require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.EditReal, Service: other, Real: wrong}}))
	}
	b.declare(t, idle, server("v2", map[string]int{"v1": 2, "v2": 3}))
	assert.EqualValues(t, 9, b.serving(t)[other.Key.String()][wrong.RealKey.String()], "not seen yet")
	look()
	assert.EqualValues(t, 1, b.serving(t)[other.Key.String()][wrong.RealKey.String()])
	assert.Equal(t, nothing, look())
}

// A daemon killed before any op of a switch, or of its first pass, leaves a table from which the next
// one gets it right.
func TestKilledAtEveryOp(t *testing.T) {
	errKilled := errors.New("killed")
	both := map[string]int{"v1": 2, "v2": 2}
	for at := 0; ; at++ {
		b := newBench(t, t.TempDir())
		n := 0
		b.kernel.Intercept(func(int, ipvs.Op) error {
			if n++; n > at {
				return errKilled // this op and all that would have followed do not happen
			}
			return nil
		})
		b.declare(t, server("v1", both))
		b.declare(t, server("v2", both))
		whole := n <= at
		b.kernel.Intercept(nil)
		b.restart(t)
		status := b.declare(t, server("v2", both))
		assert.Empty(t, status.Error)
		assert.True(t, status.Server(owner).Verified, "killed at op %d", at)
		want := map[string]uint32{"10.244.2.1:8080": 1, "10.244.2.2:8080": 1}
		assert.Equal(t, map[string]map[string]uint32{"TCP 192.0.2.10:30080": want, "TCP 10.96.0.10:80": want}, b.serving(t), "killed at op %d", at)
		if whole {
			assert.Greater(t, at, 8)
			return
		}
	}
}

func TestDriftIsRepaired(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", map[string]int{"v1": 2}))
	right := b.serving(t)
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}
	first := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, Weight: 9}
	stray := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.MustParseAddr("10.9.9.9"), Port: 8080}, Weight: 1}
	s := ipvs.Service{Key: key, Scheduler: "wrr", Netmask: 0xffffffff}
	drifts := map[string]func() error{
		"service deleted": func() error { return b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: s}}) },
		"weight changed":  func() error { return b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.EditReal, Service: s, Real: first}}) },
		"real deleted":    func() error { return b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.DelReal, Service: s, Real: first}}) },
		"real added":      func() error { return b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.AddReal, Service: s, Real: stray}}) },
		"scheduler":       func() error { return b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.EditService, Service: s}}) },
		"nftables":        b.rules.Delete,
		"sysctl":          func() error { b.node.Sysctl("net.ipv4.vs.conn_reuse_mode", "0"); return nil },
		"device":          b.node.RemoveDevice,
	}
	for name, drift := range drifts {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, drift())
			b.pass(b.ctx, false)
			assert.Equal(t, right, b.serving(t))
			_, state, err := b.rules.Read()
			require.NoError(t, err)
			assert.True(t, state.Intact)
			diffs, err := b.node.CheckSysctls(node.Sysctls(false))
			require.NoError(t, err)
			assert.Empty(t, diffs)
			device, err := b.node.ReadDevice()
			require.NoError(t, err)
			assert.Len(t, device.Addresses, 1)
		})
	}
}

func TestForeignStays(t *testing.T) {
	b := newBench(t, t.TempDir())
	foreign := ipvs.Service{Key: ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}, Scheduler: "lc", Netmask: 0xffffffff}
	require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.AddService, Service: foreign}}))
	status := b.declare(t, server("v1", map[string]int{"v1": 1}))
	s := status.Server(owner)
	assert.False(t, s.Verified)
	assert.Empty(t, b.serving(t)["TCP 192.0.2.10:30080"])
	assert.NotEmpty(t, b.serving(t)["TCP 10.96.0.10:80"], "the other way in is served")
	b.declare(t)
	_, err := b.Cleanup(b.ctx, false)
	require.NoError(t, err)
	assert.Contains(t, b.serving(t), "TCP 192.0.2.10:30080")
}

// One that somebody makes between our look and our write is not ours either.
func TestForeignThatCameFirst(t *testing.T) {
	b := newBench(t, t.TempDir())
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}
	b.kernel.Intercept(func(_ int, op ipvs.Op) error {
		if op.Verb == ipvs.AddService && op.Service.Key == key {
			return unix.EEXIST
		}
		return nil
	})
	status := b.declare(t, server("v1", map[string]int{"v1": 1}))
	assert.False(t, b.ledger.Owns(key))
	assert.NotEmpty(t, status.Error)
	assert.NotEmpty(t, b.serving(t)["TCP 10.96.0.10:80"], "the other way in is served")
}

func TestCleanupPutsBackWhatWasThere(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.node.Sysctl("net.ipv4.vs.conn_reuse_mode", "2")
	b.declare(t, server("v1", map[string]int{"v1": 1}))
	b.restart(t)
	planned, err := b.Cleanup(b.ctx, true)
	require.NoError(t, err)
	assert.Len(t, b.serving(t), 2, "a dry run removes nothing")
	done, err := b.Cleanup(b.ctx, false)
	require.NoError(t, err)
	assert.Equal(t, planned, done)
	assert.Empty(t, b.serving(t))
	device, err := b.node.ReadDevice()
	require.NoError(t, err)
	assert.False(t, device.Exists)
	_, state, err := b.rules.Read()
	require.NoError(t, err)
	assert.False(t, state.Present)
	diffs, err := b.node.CheckSysctls([]node.Sysctl{{Key: "net.ipv4.vs.conn_reuse_mode", Want: "2"}, {Key: "net.ipv4.ip_forward", Want: "0"}})
	require.NoError(t, err)
	assert.Empty(t, diffs)
	again, err := b.Cleanup(b.ctx, false)
	require.NoError(t, err)
	assert.Empty(t, again)
}

func TestRefusedDeclarationChangesNothing(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", map[string]int{"v1": 2}))
	before := b.serving(t)
	bad := server("v1", nil)
	bad.Ports, bad.Refused = nil, &endpoints.Refusal{Reason: "ServiceNotFound", Message: "there is no Service default/myapp"}
	for _, restarted := range []bool{false, true} {
		if restarted {
			b.restart(t)
		}
		s := b.declare(t, bad).Server(owner)
		assert.Equal(t, before, b.serving(t))
		if !restarted { // what was last accepted is known, so it is kept up too
			require.NoError(t, b.rules.Delete())
			for key := range tableOf(t, b.kernel) {
				require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: ipvs.Service{Key: key}}}))
			}
			b.pass(b.ctx, false)
			assert.Equal(t, before, b.serving(t))
		}
		assert.Equal(t, "ServiceNotFound", s.Status.Conditions[0].Reason)
	}
	b.declare(t) // declared no more
	b.pass(b.ctx, false)
	assert.Empty(t, b.serving(t))
}

// That the Service is gone is a declaration, not a bad one.
func TestGoneServiceIsServedNoMore(t *testing.T) {
	b := newBench(t, t.TempDir())
	gone := server("v1", nil)
	gone.Ports, gone.Refused = nil, &endpoints.Refusal{Reason: "ServiceNotFound", Message: "there is no Service default/myapp", Gone: true}
	for _, restarted := range []bool{false, true} {
		b.declare(t, server("v1", map[string]int{"v1": 2}))
		require.NotEmpty(t, b.serving(t))
		if restarted {
			b.restart(t)
		}
		b.declare(t, gone)
		b.pass(b.ctx, false)
		assert.Empty(t, tableOf(t, b.kernel))
		// A refusal that comes after, with nobody knowing, brings nothing back.
		unknown := gone
		unknown.Refused = &endpoints.Refusal{Reason: "ServiceNotFound"}
		b.declare(t, unknown)
		assert.Empty(t, tableOf(t, b.kernel))
	}
}

// What drains keeps its masquerade and its address until its last connection is gone.
func TestRemovedVirtualServerDrains(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", map[string]int{"v1": 2}))
	b.busy(1, 1)
	for _, drained := range []bool{false, true} {
		if drained {
			for key := range tableOf(t, b.kernel) {
				b.kernel.SetReal(key, ipvs.RealKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, ipvs.RealInfo{})
			}
		}
		b.declare(t)
		b.pass(b.ctx, false)
		want := 2
		if drained {
			want = 0
		}
		assert.Len(t, b.serving(t), want)
		rules, _, err := b.rules.Read()
		require.NoError(t, err)
		assert.Len(t, rules.Virtual, want)
		device, err := b.node.ReadDevice()
		require.NoError(t, err)
		assert.Equal(t, !drained, device.Exists)
		assert.Len(t, b.ledger.Owned, want)
	}
}

// A scheduler that the node has not keeps its own virtual server back, and no other.
func TestMissingScheduler(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.Node = without{b.node, "lblc"}
	bad := server("v1", map[string]int{"v1": 2})
	bad.Key.Name, bad.Spec.Scheduler.Name = "bad", "lblc"
	bad.Ports[0].Ways = []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30081}}
	status := b.declare(t, bad, server("v1", map[string]int{"v1": 2}))
	assert.Contains(t, status.Error, "no scheduler lblc")
	assert.NotContains(t, status.Error, "reading")
	assert.Contains(t, b.serving(t), "TCP 192.0.2.10:30080")
	assert.NotContains(t, b.serving(t), "TCP 192.0.2.10:30081")
}

type without struct {
	Node
	scheduler string
}

func (w without) EnsureScheduler(name string) error {
	if name == w.scheduler {
		return fmt.Errorf("there is no scheduler %s", name)
	}
	return w.Node.EnsureScheduler(name)
}

func TestFailedPassTurnsHealthRed(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.kernel.Intercept(func(int, ipvs.Op) error { return errors.New("no memory") })
	status := b.declare(t, server("v1", map[string]int{"v1": 1}))
	assert.Contains(t, status.Error, "no memory")
	assert.False(t, status.Healthy())
	b.kernel.Intercept(nil)
	b.pass(b.ctx, false)
	status, err := LoadStatus(b.StateDir)
	require.NoError(t, err)
	assert.True(t, status.Healthy())
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	running, err := Running(dir)
	require.NoError(t, err)
	assert.False(t, running)
	unlock, err := TryLock(dir)
	require.NoError(t, err)
	running, err = Running(dir)
	require.NoError(t, err)
	assert.True(t, running)
	_, err = TryLock(dir)
	assert.ErrorIs(t, err, ErrLocked)
	time.AfterFunc(20*time.Millisecond, unlock)
	log := logrus.New()
	log.SetOutput(io.Discard)
	again, err := Lock(context.Background(), dir, log)
	require.NoError(t, err)
	again()
}

func ExampleReconciler_Plan() {
	fmt.Println(ipvs.Op{Verb: ipvs.AddReal, Service: rr(virtual(10, ipvs.TCP)), Real: real(1, 1)})
	// Output: ipvsadm -a -t 192.0.2.10:30080 -r 10.244.0.1:80 -m -w 1
}

// Whatever is declared, drained and done by others, in whatever order: after a look the table serves the
// target and nothing else, and the ledger knows exactly what is ours.
func TestRandomWalk(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, ledgerFile)))
		b := newBench(t, dir)
		b.NodeChanged = make(chan struct{})
		names := []string{"a", "b", "c", "d"}
		last := map[string]endpoints.Server{}
		declare := func() {
			var servers []endpoints.Server
			for i, name := range names {
				if !rapid.Bool().Draw(rt, "declared") {
					continue
				}
				if s, ok := last[name]; ok && rapid.Bool().Draw(rt, "unchanged") {
					servers = append(servers, s)
					continue
				}
				ready := rapid.MapOf(rapid.SampledFrom([]string{"v1", "v2", "v3"}), rapid.IntRange(0, 3)).Draw(rt, "ready")
				s := server(rapid.SampledFrom([]string{"v1", "v2", "v3"}).Draw(rt, "active"), ready)
				s.Key.Name = name
				s.Spec.Steering = rapid.SampledFrom([]v1alpha1.Steering{"", "", v1alpha1.SteeringMark}).Draw(rt, "steering")
				s.Ports[0].Ways = []endpoints.Way{
					{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: uint16(30000 + i)},
					{Kind: endpoints.ClusterIP, Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(10 + i)}), Port: 80},
				}
				servers = append(servers, s)
				last[name] = s
			}
			b.declare(t, servers...)
		}
		table := func() (list []ipvs.ServiceInfo) {
			list, err := b.kernel.Read(b.ctx)
			require.NoError(t, err)
			return list
		}
		declare()
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			list := table()
			var service *ipvs.ServiceInfo
			var real *ipvs.RealInfo
			if len(list) > 0 {
				service = &list[rapid.IntRange(0, len(list)-1).Draw(rt, "service")]
				if n := len(service.Reals); n > 0 {
					real = &service.Reals[rapid.IntRange(0, n-1).Draw(rt, "real")]
				}
			}
			switch rapid.IntRange(0, 5).Draw(rt, "event") {
			case 0, 1:
				declare()
			case 2: // somebody deletes a virtual server
				if service != nil {
					require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: service.Service}}))
				}
			case 3: // somebody changes a weight
				if real != nil {
					changed := real.RealServer
					changed.Weight = uint32(rapid.IntRange(0, 3).Draw(rt, "weight"))
					require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.EditReal, Service: service.Service, Real: changed}}))
				}
			case 4, 5: // connections come or end
				if real != nil {
					b.kernel.SetReal(service.Key, real.RealKey, ipvs.RealInfo{Active: uint32(rapid.IntRange(0, 1).Draw(rt, "active"))})
				}
			}
			b.pass(b.ctx, false)
			require.Empty(rt, b.lastError)
			for range 2 { // what was at weight is lowered, then, if idle, deleted
				b.pass(b.ctx, false)
			}
			saved, err := LoadLedger(dir)
			require.NoError(rt, err)
			require.Equal(rt, encoded(rt, b.ledger), encoded(rt, saved), "what is on disk is what is known")
			requireWholeStatus(rt, b)
			require.ElementsMatch(rt, uncounted(table()), uncounted(b.table.services), "what is known is what is there")
			here := map[ipvs.Key]bool{}
			for _, s := range table() {
				here[s.Key] = true
				require.True(rt, b.ledger.Owns(s.Key), "%s is ours", s.Key)
				wanted := map[ipvs.RealKey]uint32{}
				if v := b.want(s.Key); v != nil {
					require.Equal(rt, v.Service, s.Service)
					for _, r := range v.Reals {
						wanted[r.RealKey] = r.Weight
					}
				}
				draining := 0
				for _, r := range s.Reals {
					if want, ok := wanted[r.RealKey]; ok {
						require.Equal(rt, want, r.Weight)
						delete(wanted, r.RealKey)
						continue
					}
					draining++
					require.Zero(rt, r.Weight)
					require.NotZero(rt, r.Active, "%s of %s has drained", r.RealKey, s.Key)
				}
				require.Empty(rt, wanted)
				require.Len(rt, b.ledger.Owned[s.Key].Draining, draining)
			}
			rules, _, err := b.rules.Read()
			require.NoError(rt, err)
			steered := readSteering(rules.Steering)
			for mark := range steered.marks {
				require.True(rt, here[mark], "%s, which a rule puts packets on, is there", mark)
			}
			for key, v := range b.target.Servers {
				marked := b.target.Rollouts[v.Owner].steering == v1alpha1.SteeringMark
				require.True(rt, here[key] || marked && steered.plain[MasqueradeElement(key)] != 0, "%s is there", key)
			}
			require.Len(rt, b.ledger.Owned, len(here))
		}
	})
}

func encoded(t require.TestingT, l *Ledger) string {
	text, err := l.encode()
	require.NoError(t, err)
	return string(text)
}

// uncounted is a table without what the kernel counts.
func uncounted(list []ipvs.ServiceInfo) []string {
	var out []string
	for _, s := range list {
		text := s.Service.String()
		for _, r := range s.Reals {
			text += "; " + r.RealServer.String()
		}
		out = append(out, text)
	}
	return out
}

// told is a kernel that tells of changes, and is slow to read.
type told struct {
	*ipvs.Fake
	changed chan struct{}
}

func (k told) Changed() <-chan struct{} { return k.changed }

func (k told) Read(ctx context.Context) ([]ipvs.ServiceInfo, error) {
	time.Sleep(20 * time.Millisecond)
	return k.Fake.Read(ctx)
}

// harm changes what the loop holds, and has it told.
func (k told) harm(t *testing.T, key ipvs.Key) {
	require.NoError(t, k.Apply(context.Background(), []ipvs.Op{{Verb: ipvs.DelService, Service: ipvs.Service{Key: key}}}))
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Reading the whole table for others' changes has a bound, and what is told meanwhile is looked at when the bound
// allows it, not when the loop next wakes by itself.
func TestToldWhileNotListening(t *testing.T) {
	b := newBench(t, t.TempDir())
	k := told{b.kernel, make(chan struct{}, 1)}
	b.IPVS, b.Changes, b.NodeChanged, b.RulesChanged = k, k, make(chan struct{}), make(chan struct{})
	b.source.snap = &endpoints.Snapshot{Servers: []endpoints.Server{server("v1", map[string]int{"v1": 2})}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}
	repaired := func() time.Duration {
		began := time.Now()
		for {
			if reals, err := k.RealServers(ctx, key); err == nil && len(reals) == 2 {
				return time.Since(began)
			}
			require.Less(t, time.Since(began), time.Minute)
			time.Sleep(time.Millisecond)
		}
	}
	repaired()
	time.Sleep(50 * time.Millisecond)
	for range 5 {
		k.harm(t, key)
		repaired()
		time.Sleep(30 * time.Millisecond) // the pass has ended, and does not listen yet
		k.harm(t, key)
		require.Less(t, repaired(), restInterval/2)
		time.Sleep(150 * time.Millisecond)
	}
	cancel()
	require.NoError(t, <-done)
}

// opened counts from when it was opened, as the kernel does.
type opened struct {
	told
	from uint64
}

func (o opened) Count() (uint64, error) {
	n, err := o.told.Count()
	return n - o.from, err
}

// What changed before anybody listened is found as soon as somebody does.
func TestChangesBeforeTheyWereToldOf(t *testing.T) {
	b := newBench(t, t.TempDir())
	k := told{b.kernel, make(chan struct{}, 1)}
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 80}
	b.IPVS, b.Changes, b.NodeChanged = k, nil, make(chan struct{})
	rules := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	harmed := make(chan time.Time, 1)
	b.Listen = func() error {
		require.NoError(t, k.Apply(ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: ipvs.Service{Key: key}}}))
		require.NoError(t, b.rules.Delete())
		harmed <- time.Now()
		from, err := k.Count()
		b.Changes, b.RulesChanged = opened{k, from}, rules
		return err
	}
	b.source.snap = &endpoints.Snapshot{Servers: []endpoints.Server{server("v1", map[string]int{"v1": 2})}}
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	at := <-harmed
	repaired := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			reals, err := k.RealServers(ctx, key)
			_, state, readErr := b.rules.Read()
			return err == nil && len(reals) == 2 && readErr == nil && state.Intact
		}, time.Minute, time.Millisecond)
	}
	repaired()
	require.Less(t, time.Since(at), restInterval/2, "it was found by chance")
	at = time.Now()
	k.harm(t, key) // and what is told from then on
	repaired()
	require.NoError(t, b.rules.Delete())
	rules <- struct{}{}
	repaired()
	require.Less(t, time.Since(at), restInterval/2, "it was found by chance")
	cancel()
	require.NoError(t, <-done)
}

// TestListenFails: a daemon that would not be told of changes is to say so, and not to go on deaf.
func TestListenFails(t *testing.T) {
	b := newBench(t, t.TempDir())
	deaf := errors.New("deaf")
	b.Listen = func() error { return deaf }
	b.source.snap = &endpoints.Snapshot{Servers: []endpoints.Server{server("v1", map[string]int{"v1": 2})}}
	require.ErrorIs(t, b.Run(b.ctx), deaf)
}
