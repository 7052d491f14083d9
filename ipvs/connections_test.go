package ipvs_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/internal/lab"
	"github.com/pointsman/pointsman/ipvs"
)

const connHead = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"

func connKey(protocol ipvs.Protocol, virtual, real string) ipvs.ConnKey {
	return ipvs.ConnKey{Protocol: protocol, Virtual: netip.MustParseAddrPort(virtual), Real: netip.MustParseAddrPort(real)}
}

// Lines as Linux 6.1 and 7.2 write them.
func TestCountConnections(t *testing.T) {
	counts, err := ipvs.CountConnections(strings.NewReader(connHead +
		"TCP C0000264 C350 C000020A 7580 0AF48C4C 0050 ESTABLISHED     899\n" +
		"TCP C0000264 C351 C000020A 7580 0AF48C4C 0050 SYN_RECV         59\n" +
		"TCP C0000264 C352 C000020A 7580 0AF48C4C 0050 SYN_RECV         58\n" +
		"TCP C0000264 C353 C000020A 7580 0AF48C4C 0050 CLOSE             9\n" +
		"TCP C0000264 C354 C000020A 7580 0AF48C4D 0050 NEW_NAME          9\n" +
		"TCP C0000264 0000 C000020A 7580 0AF48C4D 0050 NONE            299\n" + // templates
		"IP  C0000264 0000 00000007 0000 0AF48C4D 0050 NONE            299\n" +
		"UDP C0000264 C355 C000020A 7580 0AF48C4D 0050 UDP             299 sip Call-ID-1\n" +
		"TCP 2001:0db8:0002:0000:0000:0000:0000:0064 C356 2001:0db8:0002:0000:0000:0000:0000:000a 7580 fd00:000a:00f4:008c:0000:0000:0000:004c 0050 FIN_WAIT        119\n"))
	require.NoError(t, err)
	one := counts[connKey(ipvs.TCP, "192.0.2.10:30080", "10.244.140.76:80")]
	require.NotNil(t, one)
	want := ipvs.ConnCount{Total: 4, Waiting: 1}
	want.TCP[ipvs.TCPEstablished], want.TCP[ipvs.TCPSynRecv], want.TCP[ipvs.TCPClose] = 1, 2, 1
	assert.Equal(t, want, *one)
	want = ipvs.ConnCount{Total: 1}
	want.TCP[ipvs.TCPOther] = 1
	assert.Equal(t, want, *counts[connKey(ipvs.TCP, "192.0.2.10:30080", "10.244.140.77:80")])
	assert.Equal(t, ipvs.ConnCount{Total: 1}, *counts[connKey(ipvs.UDP, "192.0.2.10:30080", "10.244.140.77:80")])
	want = ipvs.ConnCount{Total: 1}
	want.TCP[ipvs.TCPFinWait] = 1
	assert.Equal(t, want, *counts[connKey(ipvs.TCP, "[2001:db8:2::a]:30080", "[fd00:a:f4:8c::4c]:80")])
	assert.Len(t, counts, 4)

	counts, err = ipvs.CountConnections(strings.NewReader(""))
	require.NoError(t, err)
	assert.Empty(t, counts)
}

func TestCountConnectionsThatDoNotParse(t *testing.T) {
	good := "TCP C0000264 C350 C000020A 7580 0AF48C4C 0050 ESTABLISHED     899\n"
	for name, text := range map[string]string{
		"another head":   "Nothing\n" + good,
		"half a line":    connHead + good + "TCP C0000264 C350 C000020A",
		"no number":      connHead + strings.Replace(good, "C350", "C35x", 1),
		"a short port":   connHead + strings.Replace(good, "7580", "758", 1),
		"no address":     connHead + strings.Replace(good, "0AF48C4C", "0AF48C4C4C", 1),
		"half of a v6":   connHead + strings.Replace(good, "0AF48C4C", "fd00:000a:00f4:008c-0000:0000:0000:004c", 1),
		"never over":     connHead + strings.Replace(good, "899", "", 1),
		"an endless one": connHead + strings.Repeat("x", 1<<20),
	} {
		counts, err := ipvs.CountConnections(strings.NewReader(text))
		assert.Error(t, err, name)
		assert.Nil(t, counts, name)
	}
}

// Real connections in each state, seen from another namespace's thread.
func TestKernelConnections(t *testing.T) {
	kerneltest.Require(t)
	require.NoError(t, modules())
	l, err := lab.New(lab.Config{Clients: 2, UDP: true, DualStack: true, Colours: []lab.Colour{{Name: "v1", Backends: 1}, {Name: "v2", Backends: 1}, {Name: "v3", Backends: 1}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	require.NoError(t, l.Node.Sysctl("net/ipv4/ip_forward", "1"))
	require.NoError(t, l.Node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	var c *ipvs.Conn
	require.NoError(t, l.Node.Do(func() (err error) {
		c, err = ipvs.Open()
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	counts := func() map[ipvs.ConnKey]*ipvs.ConnCount {
		t.Helper()
		counts, err := c.Connections(context.Background())
		require.NoError(t, err)
		return counts
	}
	require.Empty(t, counts())

	answers, refuses, drops := l.Backends[0], l.Backends[1], l.Backends[2]
	refuses.Stop()
	for _, pods := range l.Pods {
		_, err := pods.Feed(fmt.Sprintf("table ip lost {\nchain lost {\ntype filter hook prerouting priority -300;\nip daddr %v drop\n}\n}\n", drops.Addr.Addr()), "nft", "-f", "-")
		require.NoError(t, err)
	}
	port := uint16(30000)
	virtual := func(kind string, at netip.Addr, to netip.AddrPort, persistent bool) netip.AddrPort {
		port++
		s := service(fmt.Sprintf("%s %v", kind, netip.AddrPortFrom(at, port)), "rr")
		if persistent {
			s.Flags, s.Timeout = ipvs.Persistent, 300
		}
		require.NoError(t, c.Apply(context.Background(), []ipvs.Op{{Verb: ipvs.AddService, Service: s}, {Verb: ipvs.AddReal, Service: s, Real: masquerade(to.String(), 1)}}))
		return netip.AddrPortFrom(at, port)
	}
	hold := func(at netip.AddrPort, n int) {
		t.Helper()
		_, err := l.Hold(lab.Held{From: l.Client, Target: at, Count: n})
		require.NoError(t, err)
	}
	once := func(at netip.AddrPort, ending lab.Ending) {
		lab.Load{From: l.Client, Target: at, Ending: ending, Timeout: 4 * time.Second}.Once()
	}
	type want struct {
		key   ipvs.ConnKey
		state ipvs.TCPState
		n     uint32
	}
	var all []want
	expect := func(at netip.AddrPort, to netip.AddrPort, state ipvs.TCPState, n uint32) {
		all = append(all, want{ipvs.ConnKey{Protocol: ipvs.TCP, Virtual: at, Real: to}, state, n})
	}
	established := virtual("TCP", l.NodeAddr, answers.Addr, true) // and a template, which is none
	hold(established, 3)
	expect(established, answers.Addr, ipvs.TCPEstablished, 3)
	six := virtual("TCP", l.NodeAddr6, answers.Addr6, false)
	hold(six, 2)
	expect(six, answers.Addr6, ipvs.TCPEstablished, 2)
	ended := virtual("TCP", l.NodeAddr, answers.Addr, false)
	once(ended, lab.ClientEnds)
	expect(ended, answers.Addr, ipvs.TCPTimeWait, 1)
	datagrams := virtual("UDP", l.NodeAddr, answers.Addr, false)
	flows, err := l.Flow(lab.Flows{From: l.Client, Target: datagrams, Count: 4})
	require.NoError(t, err)
	t.Cleanup(func() { flows.Stop() })
	closed := virtual("TCP", l.NodeAddr, refuses.Addr, false)
	silent := virtual("TCP", l.NodeAddr, drops.Addr, false)
	once(silent, lab.ClientEnds) // gives up after four seconds, the last SYN but one
	once(closed, lab.ClientEnds)
	once(closed, lab.Aborts)
	expect(closed, refuses.Addr, ipvs.TCPClose, 2)
	expect(silent, drops.Addr, ipvs.TCPSynRecv, 1)

	// A mark-keyed virtual server: the way in is what the client connected to.
	_, err = l.Node.Feed(fmt.Sprintf("table ip marks {\nchain marks {\ntype filter hook prerouting priority -150;\nip daddr %v tcp dport 4711 meta mark set 7\n}\n}\n", l.NodeAddr), "nft", "-f", "-")
	require.NoError(t, err)
	require.NoError(t, c.Apply(context.Background(), []ipvs.Op{addService("FWM 7", "rr"), addReal("FWM 7", answers.Addr.String(), 1)}))
	marked := netip.AddrPortFrom(l.NodeAddr, 4711)
	hold(marked, 1)
	expect(marked, answers.Addr, ipvs.TCPEstablished, 1)

	runtime.LockOSThread() // Namespace moves this thread
	kerneltest.Namespace(t)
	var got map[ipvs.ConnKey]*ipvs.ConnCount
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got = counts()
		missing := ""
		for _, w := range all {
			if n := got[w.key]; n == nil || n.TCP[w.state] != w.n || n.Total != w.n {
				missing += fmt.Sprintf("%v: %d in %v, not %+v\n", w.key, w.n, w.state, n)
			}
		}
		if n := got[connKey(ipvs.UDP, datagrams.String(), answers.Addr.String())]; n == nil || n.Total != 4 {
			missing += fmt.Sprintf("four flows, not %+v\n", n)
		}
		if n := got[ipvs.ConnKey{Protocol: ipvs.TCP, Virtual: silent, Real: drops.Addr}]; n != nil && n.Waiting != 1 {
			missing += fmt.Sprintf("it waits, not %+v\n", n)
		}
		if missing == "" {
			break
		}
		require.True(t, time.Now().Before(deadline), missing)
	}
	assert.Len(t, got, len(all)+1, "and no others, templates included")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Connections(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	other := open(t) // the namespace that this thread is in
	list, err := other.Connections(context.Background())
	require.NoError(t, err)
	assert.Empty(t, list, "of another namespace")
	require.NoError(t, c.Close())
	_, err = c.Connections(context.Background())
	assert.ErrorIs(t, err, os.ErrClosed)
}
