package sync

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/rollout"
)

var addr = netip.MustParseAddr

// desire derives the target of one server on a node with one IPv4 and one IPv6 address.
func desire(s endpoints.Server) Target {
	return Desire(Input{
		Snapshot:      &endpoints.Snapshot{Servers: []endpoints.Server{s}},
		Rollouts:      map[types.NamespacedName]rollout.State{owner: {Active: s.Spec.Active}},
		NodeName:      "mast01",
		NodeAddresses: []netip.Addr{addr("192.0.2.10"), addr("2001:db8::10")},
	})
}

// one is a server with one port, one way in and these endpoints.
func one(way endpoints.Way, e ...endpoints.Endpoint) endpoints.Server {
	s := server("v1", nil)
	s.Ports = []endpoints.Port{{Protocol: corev1.ProtocolTCP, Ways: []endpoints.Way{way}, Endpoints: e}}
	return s
}

func endpoint(a, colour string) endpoints.Endpoint {
	return endpoints.Endpoint{Addr: addr(a), Port: 8080, Colour: colour, Ready: true, Serving: true}
}

var nodePort = endpoints.Way{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30080}

func addresses(v *VirtualServer) []string {
	out := []string{}
	for _, r := range v.Reals {
		out = append(out, r.RealKey.String())
	}
	return out
}

func TestDesireEndpoints(t *testing.T) {
	local := nodePort
	local.LocalOnly = true
	node := func(e endpoints.Endpoint, name string) endpoints.Endpoint { e.Node = name; return e }
	with := func(e endpoints.Endpoint, ready, serving, terminating bool) endpoints.Endpoint {
		e.Ready, e.Serving, e.Terminating = ready, serving, terminating
		return e
	}
	cases := []struct {
		name string
		s    endpoints.Server
		want []string
	}{
		{"active colour only", one(nodePort, endpoint("10.0.0.1", "v1"), endpoint("10.0.0.2", "v2"), endpoint("10.0.0.3", "")), []string{"10.0.0.1:8080"}},
		{"ready ones only", one(nodePort, endpoint("10.0.0.1", "v1"), with(endpoint("10.0.0.2", "v1"), false, false, false)), []string{"10.0.0.1:8080"}},
		{"terminating ones where no other is", one(nodePort, with(endpoint("10.0.0.1", "v1"), false, true, true), with(endpoint("10.0.0.2", "v1"), false, false, true)), []string{"10.0.0.1:8080"}},
		{"terminating ones not beside ready ones", one(nodePort, with(endpoint("10.0.0.1", "v1"), false, true, true), endpoint("10.0.0.2", "v1")), []string{"10.0.0.2:8080"}},
		{"own family only", one(nodePort, endpoint("10.0.0.1", "v1"), endpoint("fd00::1", "v1")), []string{"10.0.0.1:8080"}},
		{"policy Local", one(local, node(endpoint("10.0.0.1", "v1"), "mast01"), node(endpoint("10.0.0.2", "v1"), "mast02")), []string{"10.0.0.1:8080"}},
		{"none", one(nodePort), []string{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			target := desire(c.s)
			require.Len(t, target.Servers, 1)
			assert.Equal(t, c.want, addresses(target.Servers[ipvs.Key{Protocol: ipvs.TCP, Addr: addr("192.0.2.10"), Port: 30080}]))
		})
	}
}

func TestDesireServices(t *testing.T) {
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: addr("192.0.2.10"), Port: 30080}
	with := func(change func(*endpoints.Server)) endpoints.Server {
		s := one(nodePort, endpoint("10.0.0.1", "v1"))
		change(&s)
		return s
	}
	cases := []struct {
		name string
		s    endpoints.Server
		want ipvs.Service
	}{
		{"plain", with(func(*endpoints.Server) {}), rr(key)},
		{"affinity", with(func(s *endpoints.Server) { s.Affinity = 600 }),
			ipvs.Service{Key: key, Scheduler: "rr", Flags: ipvs.Persistent, Timeout: 600, Netmask: 0xffffffff}},
		{"mh falls back unasked", with(func(s *endpoints.Server) { s.Spec.Scheduler.Name = "mh" }),
			ipvs.Service{Key: key, Scheduler: "mh", Flags: ipvs.Sched1, Netmask: 0xffffffff}},
		{"sh with its flags", with(func(s *endpoints.Server) {
			s.Spec.Scheduler = v1alpha1.Scheduler{Name: "sh", Flags: []string{"sh-port"}}
		}),
			ipvs.Service{Key: key, Scheduler: "sh", Flags: ipvs.Sched1 | ipvs.Sched2, Netmask: 0xffffffff}},
		{"flags by number", with(func(s *endpoints.Server) {
			s.Spec.Scheduler = v1alpha1.Scheduler{Name: "wrr", Flags: []string{"flag-1", "flag-3"}}
		}), ipvs.Service{Key: key, Scheduler: "wrr", Flags: ipvs.Sched1 | ipvs.Sched3, Netmask: 0xffffffff}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, desire(c.s).Servers[key].Service) })
	}
	six := one(endpoints.Way{Kind: endpoints.NodePort, Addr: netip.IPv6Unspecified(), Port: 30080}, endpoint("fd00::1", "v1"))
	v6 := desire(six).Servers[ipvs.Key{Protocol: ipvs.TCP, Addr: addr("2001:db8::10"), Port: 30080}]
	require.NotNil(t, v6)
	assert.Equal(t, uint32(128), v6.Service.Netmask)
}

func TestDesireForwarding(t *testing.T) {
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: addr("192.0.2.10"), Port: 30080}
	for method, want := range map[v1alpha1.ForwardingMethod]string{
		v1alpha1.Masquerade: "10.0.0.1:8080",
		v1alpha1.Tunnel:     "10.0.0.1:30080", // without port translation
		v1alpha1.Direct:     "10.0.0.1:30080",
	} {
		s := one(nodePort, endpoint("10.0.0.1", "v1"))
		s.Spec.Forwarding = method
		target := desire(s)
		assert.Equal(t, []string{want}, addresses(target.Servers[key]), method)
		assert.Equal(t, method == v1alpha1.Masquerade, len(target.Masquerade.Virtual) == 1, method)
		assert.Equal(t, "v1", target.Servers[key].Colour(target.Servers[key].Reals[0].RealKey))
	}
}

func TestDesireMasqueradesNoMoreThanNeeded(t *testing.T) {
	classOf := func(way endpoints.Way) (nft.Masquerade, bool) {
		for _, class := range desire(one(way, endpoint("10.0.0.1", "v1"))).Masquerade.Virtual {
			return class, true
		}
		return 0, false
	}
	external := endpoints.Way{Kind: endpoints.ExternalIP, Addr: addr("198.51.100.7"), Port: 80}
	class, ok := classOf(external)
	assert.True(t, ok)
	assert.Equal(t, nft.Always, class)
	external.LocalOnly = true
	_, ok = classOf(external)
	assert.False(t, ok, "the client's own address must reach the backend")
	class, ok = classOf(endpoints.Way{Kind: endpoints.ClusterIP, Addr: addr("10.96.0.10"), Port: 80})
	assert.True(t, ok)
	assert.Equal(t, nft.ClusterIP, class)
}

// Two VirtualServers that come to the same address and port: the first keeps it, the other is told.
func TestDesireSameAddress(t *testing.T) {
	a := one(nodePort, endpoint("10.0.0.1", "v1"))
	b := one(endpoints.Way{Kind: endpoints.ExternalIP, Addr: addr("192.0.2.10"), Port: 30080}, endpoint("10.0.0.2", "v1"))
	b.Key.Name = "other"
	target := Desire(Input{
		Snapshot:      &endpoints.Snapshot{Servers: []endpoints.Server{a, b}},
		Rollouts:      map[types.NamespacedName]rollout.State{owner: {Active: "v1"}, b.Key: {Active: "v1"}},
		NodeAddresses: []netip.Addr{addr("192.0.2.10")},
	})
	assert.Len(t, target.Servers, 1)
	assert.Contains(t, target.Problems[b.Key][0], "TCP 192.0.2.10:30080 is served for VirtualServer default/myapp already")
}

func TestReadyCountsTheWorstPort(t *testing.T) {
	s := one(nodePort, endpoint("10.0.0.1", "v1"), endpoint("10.0.0.2", "v1"), endpoint("10.0.0.3", "v2"))
	s.Ports = append(s.Ports, endpoints.Port{Endpoints: []endpoints.Endpoint{endpoint("10.0.0.1", "v1")}})
	assert.Equal(t, map[string]int{"v1": 1, "v2": 0}, Ready(&s))
}

// What stands in the kernel after a reboot is not what stood there before, and so not ours.
func TestLedgerOfAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	l := NewLedger()
	l.Owned[virtual(10, ipvs.TCP)] = &Owned{Owner: owner}
	l.Rollouts[owner] = rollout.State{Active: "v2", Previous: "v1", Phase: v1alpha1.PhaseSteady}
	store := ledgerStore{dir: dir}
	require.NoError(t, store.save(l))
	same, err := LoadLedger(dir)
	require.NoError(t, err)
	assert.True(t, same.Owns(virtual(10, ipvs.TCP)))

	path := filepath.Join(dir, ledgerFile)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var j map[string]any
	require.NoError(t, json.Unmarshal(text, &j))
	j["boot"] = "another"
	text, err = json.Marshal(j)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	other, err := LoadLedger(dir)
	require.NoError(t, err)
	assert.False(t, other.Owns(virtual(10, ipvs.TCP)))
	assert.Equal(t, "v2", other.Rollouts[owner].Active, "where the rollout stands outlives a boot")

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = LoadLedger(dir)
	assert.ErrorContains(t, err, path, "a ledger that cannot be read is no empty ledger")
}

// A Service that is known to be gone is served no more; under any other refusal what there was is held.
func TestDesireRefused(t *testing.T) {
	for gone, held := range map[bool]map[types.NamespacedName]bool{true: {}, false: {owner: true}} {
		s := one(nodePort, endpoint("10.0.0.1", "v1"))
		s.Ports, s.Refused = nil, &endpoints.Refusal{Reason: endpoints.ReasonServiceNotFound, Gone: gone}
		target := desire(s)
		assert.Empty(t, target.Servers)
		assert.Equal(t, held, target.Held)
	}
}
