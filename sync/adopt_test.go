package sync

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

var contested = ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}

// proxied makes the virtual server as kube-proxy makes it, over pods of colours 1 and 2.
func (b *bench) proxied(t *testing.T, reals ...ipvs.RealServer) {
	t.Helper()
	service := rr(contested)
	ops := []ipvs.Op{{Verb: ipvs.AddService, Service: service}}
	for _, r := range reals {
		ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: service, Real: r})
	}
	require.NoError(t, b.kernel.Apply(b.ctx, ops))
}

func podReal(colour, n int, weight uint32) ipvs.RealServer {
	return ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 244, byte(colour), byte(n)}), Port: 8080}, Weight: weight}
}

// A Service that kube-proxy serves and that is handed over: its virtual server is ours from then on, without
// having been deleted, and the open connections of the other colour drain.
func TestTakesOverWhatServesTheService(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.proxied(t, podReal(1, 1, 1), podReal(2, 1, 1), podReal(9, 9, 0))
	for _, r := range []ipvs.RealServer{podReal(1, 1, 1), podReal(2, 1, 1)} {
		b.kernel.SetReal(contested, r.RealKey, ipvs.RealInfo{Active: 1})
	}
	deleted := 0
	b.kernel.Intercept(func(_ int, op ipvs.Op) error {
		if op.Service.Mark != 0 {
			return nil // what it was steered past
		}
		if op.Verb == ipvs.DelService || op.Verb == ipvs.DelReal && op.Real.Addr != podReal(9, 9, 0).Addr {
			deleted++
		}
		return nil
	})

	// The label is known before the endpoints are: nothing is emptied.
	status := b.declare(t, server("v1", nil))
	require.False(t, b.ledger.Owns(contested))
	require.False(t, status.Server(owner).Verified)
	require.Equal(t, uint32(1), b.serving(t)[contested.String()]["10.244.1.1:8080"])

	status = b.declare(t, server("v1", map[string]int{"v1": 2, "v2": 1}))
	require.True(t, b.ledger.Owns(contested))
	require.True(t, status.Server(owner).Verified)
	require.Equal(t, map[string]uint32{"10.244.1.1:8080": 1, "10.244.1.2:8080": 1, "10.244.2.1:8080": 0}, b.serving(t)[contested.String()])
	require.Zero(t, deleted)

	// kube-proxy deletes its own at its next sync: it is ours, and made again.
	b.wipe(t)
	b.pass(b.ctx, false)
	require.Equal(t, map[string]uint32{"10.244.1.1:8080": 1, "10.244.1.2:8080": 1}, b.serving(t)[contested.String()])
}

func TestTakesOverNothingElse(t *testing.T) {
	for name, reals := range map[string][]ipvs.RealServer{
		"another pod too":         {podReal(1, 1, 1), podReal(9, 9, 1)},
		"nothing":                 nil,
		"nothing with weight":     {podReal(1, 1, 0)},
		"another port of a pod's": {{RealKey: ipvs.RealKey{Addr: podReal(1, 1, 1).Addr, Port: 81}, Weight: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, t.TempDir())
			b.proxied(t, reals...)
			before := b.serving(t)[contested.String()]
			status := b.declare(t, server("v1", map[string]int{"v1": 2}))
			require.False(t, b.ledger.Owns(contested))
			require.Equal(t, before, b.serving(t)[contested.String()])
			require.Equal(t, "AddressTaken", status.Server(owner).Status.Conditions[0].Reason)
		})
	}
}

// Where no endpoint of the active colour is ready, taking it over would empty it.
func TestTakesOverNothingToEmptyIt(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.proxied(t, podReal(2, 1, 1))
	status := b.declare(t, server("v1", map[string]int{"v2": 1}))
	require.False(t, b.ledger.Owns(contested))
	require.Equal(t, map[string]uint32{"10.244.2.1:8080": 1}, b.serving(t)[contested.String()])
	require.False(t, status.Server(owner).Verified)
}

// A Service that lost its label goes back to kube-proxy in ipvs mode as it came: nothing is deleted, lowered
// or fought over, whatever kube-proxy makes of it and when the declaration goes.
func TestGivesBackWithoutTheLabel(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.node.SetKubeProxy(true)
	s := server("v1", map[string]int{"v1": 2, "v2": 1})
	b.declare(t, s)
	right := b.serving(t)
	b.declare(t, unlabelled(s))
	require.Empty(t, b.ledger.Owned)
	require.Equal(t, right, b.serving(t))
	device, err := b.node.ReadDevice()
	require.NoError(t, err)
	require.NotEmpty(t, device.Addresses, "the address stays until kube-proxy has it")

	require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.AddReal, Service: rr(contested), Real: podReal(2, 1, 1)}}))
	right = b.serving(t)
	b.pass(b.ctx, false)
	require.Equal(t, right, b.serving(t), "kube-proxy's now")
	b.declare(t)
	require.Equal(t, right, b.serving(t))
	device, err = b.node.ReadDevice()
	require.NoError(t, err)
	require.Empty(t, device.Addresses)

	// And once more ours.
	b.declare(t, s)
	require.Equal(t, uint32(0), b.serving(t)[contested.String()]["10.244.2.1:8080"])
	require.True(t, b.ledger.Owns(contested))

	// Where no kube-proxy would take it, it goes on as it was.
	b.node.SetKubeProxy(false)
	b.declare(t, unlabelled(s))
	require.True(t, b.ledger.Owns(contested))
}

// Before a Service gets the label, what kube-proxy takes away with the label is there already.
func TestPreparesForTheLabel(t *testing.T) {
	b := newBench(t, t.TempDir())
	s := server("v1", map[string]int{"v1": 2})
	waiting := unlabelled(s)
	waiting.Coming = []endpoints.Port{{Protocol: s.Ports[0].Protocol, Ways: s.Ports[0].Ways}}
	addr := netip.MustParseAddr("10.96.0.10")
	held := func() []netip.Addr {
		device, err := b.node.ReadDevice()
		require.NoError(t, err)
		return device.Addresses
	}
	b.declare(t, waiting)
	require.Empty(t, held(), "no kube-proxy in ipvs mode holds it")
	b.node.SetKubeProxy(true, addr)
	b.declare(t, waiting)
	require.Equal(t, []netip.Addr{addr}, held())
	rules, _, err := b.rules.Read()
	require.NoError(t, err)
	require.Len(t, rules.Virtual, 2, "the masquerade of both ways in")
	require.Empty(t, tableOf(t, b.kernel), "no virtual server without endpoints")
	b.node.SetKubeProxy(true)
	b.declare(t, waiting)
	require.Equal(t, []netip.Addr{addr}, held(), "kube-proxy was told of the label first")
	b.declare(t)
	require.Empty(t, held(), "no longer declared")
}
