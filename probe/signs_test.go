package probe_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/probe"
)

// traffic is what n connections that go alike look like: packets in and out, bytes of the packets out beyond the IP
// header, and the state that they are in at the end of the window.
type traffic struct {
	in, out, bytes uint64
	state          func(*probe.Window, int)
}

func established(w *probe.Window, n int) {
	w.Established, w.MoreEstablished = w.Established+n, w.MoreEstablished+n
}
func ended(w *probe.Window, n int)   { w.Ended, w.MoreEnded = w.Ended+n, w.MoreEnded+n }
func closed(w *probe.Window, n int)  { w.Closed += n }
func waiting(w *probe.Window, n int) { w.HalfOpen, w.Waiting = w.HalfOpen+n, w.Waiting+n }
func nothing(*probe.Window, int)     {}

// steady is ended, at a rate that has been the same for so long that as many are forgotten as come.
func steady(w *probe.Window, n int) { w.Ended += 10 * n }

func (c traffic) window(n int) probe.Window {
	w := probe.Window{Masquerade: true}
	w.Conns, w.InPackets, w.OutPackets, w.OutBytes = uint64(n), uint64(n)*c.in, uint64(n)*c.out, uint64(n)*c.bytes
	c.state(&w, n)
	return w
}

// What healthy real servers send, by packet: the answer to a SYN has 40 bytes with the usual options and 24 with one,
// others have 32 with a timestamp and 20 without.
var healthyTraffic = map[string]traffic{
	"request and answer, the client ends":  {in: 5, out: 4, bytes: 40 + 32 + 32 + 200 + 32, state: ended},
	"the same, the real server ends first": {in: 5, out: 4, bytes: 40 + 32 + 32 + 200 + 32, state: ended},
	"the client aborts after its answer":   {in: 4, out: 2, bytes: 40 + 32 + 20, state: closed},
	"a tiny answer without timestamps":     {in: 5, out: 2, bytes: 32 + 20 + 3, state: closed},
	"a health check that connects":         {in: 4, out: 2, bytes: 40 + 32, state: ended},
	"the same for hours":                   {in: 4, out: 3, bytes: 40 + 32 + 32, state: steady},
	"one that connects and aborts":         {in: 3, out: 1, bytes: 40, state: closed},
	"a scanner's, which it resets":         {in: 2, out: 1, bytes: 24, state: closed},
	"a scanner's half-open ones":           {in: 2, out: 1, bytes: 24, state: waiting},
	"a flood of forged SYNs":               {in: 1, out: 1, bytes: 40, state: waiting},
	"one that is answered again and again": {in: 1, out: 5, bytes: 5 * 40, state: waiting},
	"slow clients":                         {in: 2, out: 1, bytes: 40, state: established},
	"slow clients that were just answered": {in: 3, out: 2, bytes: 40 + 32, state: established},
	"the real server resets what it ended": {in: 4, out: 4, bytes: 40 + 32 + 32 + 100 + 20, state: closed},
}

var badTraffic = map[string]struct {
	traffic
	kind probe.SignKind
}{
	"nothing comes back, clients try again":         {traffic{in: 3, state: waiting}, probe.Silent},
	"nothing comes back, clients give up":           {traffic{in: 1, state: waiting}, probe.Silent},
	"refused":                                       {traffic{in: 1, out: 1, bytes: 20, state: closed}, probe.Refusing},
	"refused, and tried thrice":                     {traffic{in: 3, out: 3, bytes: 60, state: closed}, probe.Refusing},
	"accepted and reset":                            {traffic{in: 2, out: 2, bytes: 40 + 32, state: closed}, probe.Resetting},
	"accepted and reset when a request comes":       {traffic{in: 3, out: 3, bytes: 40 + 32 + 32, state: closed}, probe.Resetting},
	"accepted and reset, and the request reset too": {traffic{in: 3, out: 3, bytes: 40 + 32 + 20, state: closed}, probe.Resetting},
}

func TestHealthyTrafficIsNoSign(t *testing.T) {
	for name, c := range healthyTraffic {
		for _, n := range []int{0, 1, 4, 5, 6, 100, 100000} {
			assert.Empty(t, c.window(n).Kind(), "%s, %d connections", name, n)
		}
		for other, d := range healthyTraffic {
			for _, n := range []int{1, 5, 50} {
				assert.Empty(t, c.window(50).And(d.window(n)).Kind(), "%s, with %d of %s", name, n, other)
			}
		}
		// Without Masquerade nothing of what is sent back is seen, nor is it known who has closed.
		for _, n := range []int{1, 5, 100} {
			w := c.window(n)
			w.OutPackets, w.OutBytes, w.Masquerade = 0, 0, false
			assert.Empty(t, w.Kind(), "%s, %d connections, direct", name, n)
		}
	}
}

func TestBadTrafficIsASign(t *testing.T) {
	for name, c := range badTraffic {
		for _, n := range []int{1, 4} {
			assert.Empty(t, c.window(n).Kind(), "%s, %d connections are too few", name, n)
		}
		for _, n := range []int{probe.SignConns, 100, 100000} {
			assert.Equal(t, c.kind, c.window(n).Kind(), "%s, %d connections", name, n)
		}
		// As many that go well are a real server that works now and then, which a probe may judge.
		good := healthyTraffic["request and answer, the client ends"]
		assert.Empty(t, c.window(20).And(good.window(20)).Kind(), name)
	}
	long := probe.Window{Masquerade: true, Established: 500} // idle ones, from before
	assert.Equal(t, probe.Silent, badTraffic["nothing comes back, clients try again"].window(20).And(long).Kind())
}

func TestSYNsThatArriveThisInstantAreNoSign(t *testing.T) {
	assert.Empty(t, traffic{in: 1, state: nothing}.window(1000).Kind())
	some := traffic{in: 1, out: 1, bytes: 40, state: nothing}
	assert.Empty(t, traffic{in: 1, state: nothing}.window(1000).And(some.window(10)).Kind())
}

func TestStuckIsToldWithoutMasquerade(t *testing.T) {
	w := traffic{in: 3, state: waiting}.window(20)
	w.Masquerade = false
	assert.Equal(t, probe.Stuck, w.Kind())
	once := w
	once.Established = 1
	assert.Empty(t, once.Kind(), "one got through")
	once = w
	once.Ended = 1
	assert.Empty(t, once.Kind(), "one got through")
	once = w
	once.InPackets = 40
	assert.Empty(t, once.Kind(), "a scanner: a SYN and a reset")
}

func server(n int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", n)) }

func TestSignsOfAColour(t *testing.T) {
	bad, good := badTraffic["refused"].traffic, healthyTraffic["request and answer, the client ends"]
	mixed := func(broken, of, each int) map[netip.AddrPort]probe.Window {
		all := map[netip.AddrPort]probe.Window{}
		for i := range of {
			if all[server(i)] = good.window(each); i < broken {
				all[server(i)] = bad.window(each)
			}
		}
		return all
	}
	assert.Empty(t, probe.Signs(nil, 0))
	assert.Empty(t, probe.Signs(mixed(0, 10, 20), 0))
	assert.Empty(t, probe.Signs(mixed(2, 10, 20), 2), "no more than are spare")
	signs := probe.Signs(mixed(3, 10, 20), 2)
	require.Len(t, signs, 1)
	assert.Equal(t, "connections are refused, at 10.0.0.0:80, 10.0.0.1:80, 10.0.0.2:80", signs[0].String())
	signs = probe.Signs(mixed(10, 10, 20), 2)
	assert.Equal(t, "connections are refused, at 10.0.0.0:80, 10.0.0.1:80, 10.0.0.2:80, 7 more", signs[0].String())

	// Too few for any of them, and enough together; what is spare does not matter then.
	signs = probe.Signs(mixed(10, 10, 1), 9)
	require.Len(t, signs, 1)
	assert.Equal(t, "connections are refused, at all of its 10 addresses", signs[0].String())
	assert.Empty(t, probe.Signs(mixed(9, 9, 1), 0), "nine are too few together")
	assert.Empty(t, probe.Signs(mixed(9, 10, 2), 9), "one works")

	// Two ports of an address are one endpoint; each way to be broken is told.
	two := mixed(2, 10, 20)
	two[netip.MustParseAddrPort("10.0.0.1:81")] = bad.window(20)
	assert.Empty(t, probe.Signs(two, 2))
	two[server(5)] = badTraffic["accepted and reset"].window(20)
	signs = probe.Signs(two, 2)
	require.Len(t, signs, 2)
	assert.Equal(t, []probe.SignKind{probe.Refusing, probe.Resetting}, []probe.SignKind{signs[0].Kind, signs[1].Kind})
	assert.Equal(t, "connections are refused, at 10.0.0.0:80, 10.0.0.1:80, 10.0.0.1:81", signs[0].String())
}
