package sync

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

var (
	owner = types.NamespacedName{Namespace: "default", Name: "myapp"}
	noon  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func virtual(n int, p ipvs.Protocol) ipvs.Key {
	return ipvs.Key{Protocol: p, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), Port: 30080}
}

func real(n int, weight uint32) ipvs.RealServer {
	return ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), Port: 80}, Weight: weight}
}

func rr(k ipvs.Key) ipvs.Service { return ipvs.Service{Key: k, Scheduler: "rr", Netmask: 0xffffffff} }

// texts are the ops as the commands that they equal.
func texts(ops []ipvs.Op) []string {
	out := []string{}
	for _, op := range ops {
		out = append(out, op.String())
	}
	return out
}

// A scene is a random kernel table, ledger and target.
type scene struct {
	fake   *ipvs.Fake
	ledger *Ledger
	target Target
	cut    map[ipvs.Key]map[ipvs.RealKey]bool // past a deadline that cuts
}

func drawScene(t *rapid.T) scene {
	s := scene{
		fake: ipvs.NewFake(), ledger: NewLedger(), cut: map[ipvs.Key]map[ipvs.RealKey]bool{},
		target: Target{Servers: map[ipvs.Key]*VirtualServer{}, Held: map[types.NamespacedName]bool{}},
	}
	protocol := rapid.SampledFrom([]ipvs.Protocol{ipvs.TCP, ipvs.UDP, ipvs.SCTP})
	scheduler := rapid.SampledFrom([]string{"rr", "wrr", "lc"})
	reals := rapid.SliceOfNDistinct(rapid.IntRange(1, 8), 0, 8, rapid.ID[int])
	held := types.NamespacedName{Namespace: "default", Name: "held"}
	for n := range rapid.IntRange(1, 4).Draw(t, "servers") {
		key := virtual(n+1, protocol.Draw(t, "protocol"))
		// In the kernel: ours, somebody else's, or not there.
		place := rapid.SampledFrom([]string{"ours", "ours", "held", "foreign", "absent"}).Draw(t, "place")
		if place != "absent" {
			service := rr(key)
			service.Scheduler = scheduler.Draw(t, "scheduler")
			require.NoError(t, s.fake.Apply(context.Background(), []ipvs.Op{{Verb: ipvs.AddService, Service: service}}))
			for _, r := range reals.Draw(t, "present") {
				rs := real(r, uint32(rapid.IntRange(0, 3).Draw(t, "weight")))
				require.NoError(t, s.fake.Apply(context.Background(), []ipvs.Op{{Verb: ipvs.AddReal, Service: service, Real: rs}}))
				s.fake.SetReal(key, rs.RealKey, ipvs.RealInfo{
					Active: uint32(rapid.IntRange(0, 1).Draw(t, "active")), Inactive: uint32(rapid.IntRange(0, 1).Draw(t, "inactive")),
				})
			}
		}
		if place == "ours" || place == "held" {
			o := &Owned{Owner: owner, Draining: map[ipvs.RealKey]Draining{}, Drain: DrainPolicy{Timeout: time.Minute, Cut: rapid.Bool().Draw(t, "cut")}}
			if place == "held" {
				o.Owner, s.target.Held[held] = held, true
			}
			s.ledger.Owned[key] = o
			s.cut[key] = map[ipvs.RealKey]bool{}
			for r := 1; r <= 8; r++ {
				since := noon.Add(-time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
				o.Draining[real(r, 0).RealKey] = Draining{Since: since}
				s.cut[key][real(r, 0).RealKey] = o.Drain.Cut && noon.Sub(since) >= time.Minute
			}
		}
		if place != "held" && rapid.Bool().Draw(t, "wanted") {
			v := &VirtualServer{Owner: owner, Service: rr(key)}
			v.Service.Scheduler = scheduler.Draw(t, "wanted scheduler")
			for _, r := range reals.Draw(t, "wanted reals") {
				v.Reals = append(v.Reals, real(r, 1))
			}
			s.target.Servers[key] = v
		}
	}
	return s
}

func tableOf(t require.TestingT, f *ipvs.Fake) map[ipvs.Key]ipvs.ServiceInfo {
	services, err := f.Read(context.Background())
	require.NoError(t, err)
	out := map[ipvs.Key]ipvs.ServiceInfo{}
	for _, s := range services {
		s.Reals = slices.Clone(s.Reals)
		out[s.Key] = s
	}
	return out
}

func weights(s ipvs.ServiceInfo) map[ipvs.RealKey]uint32 {
	out := map[ipvs.RealKey]uint32{}
	for _, r := range s.Reals {
		out[r.RealKey] = r.Weight
	}
	return out
}

func usableReals(s ipvs.ServiceInfo) int {
	n := 0
	for _, r := range s.Reals {
		if r.Weight > 0 {
			n++
		}
	}
	return n
}

// checkPrefix holds the table after a prefix of the plan against the invariants.
func checkPrefix(t *rapid.T, s scene, before, now map[ipvs.Key]ipvs.ServiceInfo) {
	for key, b := range before {
		a, there := now[key]
		want := s.target.Servers[key]
		owned := s.ledger.Owned[key]
		if owned == nil || s.target.Held[owned.Owner] {
			require.Equal(t, b, a, "ours only: %s was changed", key)
			continue
		}
		// Never empty by our hand.
		if want != nil && len(want.Reals) > 0 && usableReals(b) > 0 && usableReals(a) == 0 {
			t.Fatalf("%s has no usable real server", key)
		}
		if want != nil && !there {
			t.Fatalf("%s was deleted though it is wanted", key)
		}
		// No cut.
		present := weights(a)
		for _, r := range b.Reals {
			_, still := present[r.RealKey]
			if still || key.Protocol == ipvs.UDP || s.cut[key][r.RealKey] && r.Weight == 0 {
				continue
			}
			if r.Active+r.Inactive > 0 {
				t.Fatalf("%s: %s was deleted with connections", key, r.RealKey)
			}
			if r.Weight > 0 {
				t.Fatalf("%s: %s was deleted while it could get connections", key, r.RealKey)
			}
		}
	}
	for key := range now {
		if _, was := before[key]; !was && s.target.Servers[key] == nil {
			t.Fatalf("%s was made though nobody wants it", key)
		}
	}
}

// Every prefix of a plan is safe, the whole of it serves the target and nothing else, and then there
// is nothing left to do but to wait for drains.
func TestPlanIsSafeAfterEveryPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		ctx := context.Background()
		services, err := s.fake.Read(ctx)
		require.NoError(t, err)
		before := tableOf(t, s.fake)
		ops, conflicts := planIPVS(s.target, tableFrom(services), nil, s.ledger, nil, noon)
		again, _ := planIPVS(s.target, tableFrom(services), nil, s.ledger, nil, noon)
		require.Equal(t, texts(ops), texts(again), "the same plan each time")
		for _, op := range ops {
			require.NoError(t, s.fake.Apply(ctx, []ipvs.Op{op}), "each op is one that the kernel takes: %s", op)
			checkPrefix(t, s, before, tableOf(t, s.fake))
		}
		inConflict := map[ipvs.Key]bool{}
		for _, c := range conflicts {
			inConflict[c.Key] = true
		}
		after := tableOf(t, s.fake)
		for key, want := range s.target.Servers {
			if inConflict[key] {
				continue
			}
			require.Equal(t, want.Service, after[key].Service)
			got := weights(after[key])
			maps.DeleteFunc(got, func(_ ipvs.RealKey, w uint32) bool { return w == 0 })
			wanted := map[ipvs.RealKey]uint32{}
			for _, r := range want.Reals {
				wanted[r.RealKey] = r.Weight
			}
			require.Equal(t, wanted, got, "one colour: %s", key)
		}
		// Once all connections have ended, what is left is the target.
		for key := range after {
			if s.target.Servers[key] != nil && !inConflict[key] || s.ledger.Owns(key) {
				for _, r := range after[key].Reals {
					s.fake.SetReal(key, r.RealKey, ipvs.RealInfo{})
				}
			}
			if s.target.Servers[key] != nil && !inConflict[key] && !s.ledger.Owns(key) {
				s.ledger.Owned[key] = &Owned{Owner: owner}
			}
		}
		for range 2 {
			services, _ = s.fake.Read(ctx)
			ops, _ = planIPVS(s.target, tableFrom(services), nil, s.ledger, nil, noon)
			require.NoError(t, s.fake.Apply(ctx, ops))
		}
		require.Empty(t, ops, "a second pass over a right table writes nothing")
		for key, left := range tableOf(t, s.fake) {
			want := s.target.Servers[key]
			o := s.ledger.Owned[key]
			if inConflict[key] || o == nil || s.target.Held[o.Owner] {
				continue
			}
			require.NotNil(t, want, "%s has drained and is still there", key)
			require.Len(t, left.Reals, len(want.Reals))
		}
	})
}

// The text of plans, for a person to check.
func TestPlanReadsAsCommands(t *testing.T) {
	key := virtual(10, ipvs.TCP)
	udp := virtual(10, ipvs.UDP)
	ledger := NewLedger()
	ledger.Owned[key] = &Owned{Owner: owner, Draining: map[ipvs.RealKey]Draining{}}
	ledger.Owned[udp] = &Owned{Owner: owner, Draining: map[ipvs.RealKey]Draining{}}
	wants := func(k ipvs.Key, reals ...ipvs.RealServer) Target {
		return Target{Servers: map[ipvs.Key]*VirtualServer{k: {Owner: owner, Service: rr(k), Reals: reals}}}
	}
	has := func(k ipvs.Key, reals ...ipvs.RealInfo) []ipvs.ServiceInfo {
		return []ipvs.ServiceInfo{{Service: rr(k), Reals: reals}}
	}
	with := func(r ipvs.RealServer, active uint32) ipvs.RealInfo {
		return ipvs.RealInfo{RealServer: r, Active: active}
	}
	cases := []struct {
		name   string
		target Target
		have   []ipvs.ServiceInfo
		want   []string
	}{
		{"from empty", wants(key, real(1, 1), real(2, 1)), nil, []string{
			"ipvsadm -A -t 192.0.2.10:30080 -s rr",
			"ipvsadm -a -t 192.0.2.10:30080 -r 10.244.0.1:80 -m -w 1",
			"ipvsadm -a -t 192.0.2.10:30080 -r 10.244.0.2:80 -m -w 1",
		}},
		{"switch: up before down, nothing deleted", wants(key, real(2, 1)), has(key, with(real(1, 1), 0)), []string{
			"ipvsadm -a -t 192.0.2.10:30080 -r 10.244.0.2:80 -m -w 1",
			"ipvsadm -e -t 192.0.2.10:30080 -r 10.244.0.1:80 -m -w 0",
		}},
		{"switch back while it drains", wants(key, real(1, 1)), has(key, with(real(1, 0), 3), with(real(2, 1), 0)), []string{
			"ipvsadm -e -t 192.0.2.10:30080 -r 10.244.0.1:80 -m -w 1",
			"ipvsadm -e -t 192.0.2.10:30080 -r 10.244.0.2:80 -m -w 0",
		}},
		{"drained", wants(key, real(2, 1)), has(key, with(real(1, 0), 0), with(real(2, 1), 5)), []string{
			"ipvsadm -d -t 192.0.2.10:30080 -r 10.244.0.1:80",
		}},
		{"draining", wants(key, real(2, 1)), has(key, with(real(1, 0), 1), with(real(2, 1), 5)), []string{}},
		{"a weight that somebody changed", wants(key, real(2, 1)), has(key, with(real(2, 7), 5)), []string{
			"ipvsadm -e -t 192.0.2.10:30080 -r 10.244.0.2:80 -m -w 1",
		}},
		{"UDP goes at once", wants(udp, real(2, 1)), has(udp, with(real(1, 1), 3)), []string{
			"ipvsadm -a -u 192.0.2.10:30080 -r 10.244.0.2:80 -m -w 1",
			"ipvsadm -d -u 192.0.2.10:30080 -r 10.244.0.1:80",
		}},
		{"no longer declared, with connections", Target{}, has(key, with(real(1, 1), 3)), []string{
			"ipvsadm -e -t 192.0.2.10:30080 -r 10.244.0.1:80 -m -w 0",
		}},
		{"no longer declared, drained", Target{}, has(key, with(real(1, 0), 0)), []string{
			"ipvsadm -D -t 192.0.2.10:30080",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ops, conflicts := planIPVS(c.target, tableFrom(c.have), nil, ledger, nil, noon)
			assert.Empty(t, conflicts)
			assert.Equal(t, c.want, texts(ops))
		})
	}
}

func TestPlanLeavesAForeignVirtualServerAlone(t *testing.T) {
	key := virtual(10, ipvs.TCP)
	target := Target{Servers: map[ipvs.Key]*VirtualServer{key: {Owner: owner, Service: rr(key), Reals: []ipvs.RealServer{real(1, 1)}}}}
	ops, conflicts := planIPVS(target, tableFrom([]ipvs.ServiceInfo{{Service: rr(key)}}), nil, NewLedger(), nil, noon)
	assert.Empty(t, ops)
	require.Len(t, conflicts, 1)
	assert.ErrorContains(t, conflicts[0], "ipvsadm -D -t 192.0.2.10:30080")
}

// 20,000 real servers over 1,000 virtual servers, with nothing to change.
func BenchmarkPlanNothingToChange(b *testing.B) {
	target, ledger := Target{Servers: map[ipvs.Key]*VirtualServer{}}, NewLedger()
	var have []ipvs.ServiceInfo
	for n := range 1000 {
		key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.AddrFrom4([4]byte{192, 0, 2, 10}), Port: uint16(30000 + n)}
		v := &VirtualServer{Owner: types.NamespacedName{Namespace: "default", Name: fmt.Sprint(n)}, Service: rr(key)}
		info := ipvs.ServiceInfo{Service: rr(key)}
		for i := range 20 {
			r := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i)}), Port: 80}, Weight: 1}
			v.Reals = append(v.Reals, r)
			info.Reals = append(info.Reals, ipvs.RealInfo{RealServer: r})
		}
		target.Servers[key], have = v, append(have, info)
		ledger.Owned[key] = &Owned{Owner: v.Owner}
	}
	b.ReportAllocs()
	for b.Loop() {
		if ops, _ := planIPVS(target, tableFrom(have), nil, ledger, nil, noon); len(ops) > 0 {
			b.Fatal(ops[0])
		}
	}
}

func tableFrom(services []ipvs.ServiceInfo) *table {
	t := &table{}
	t.set(services)
	return t
}

// One endpoint of 20,000 comes or goes: everything between a new snapshot and the status that tells of it,
// but for the kernel, of which there is a fake.
func BenchmarkOneEndpointChanged(b *testing.B) {
	t := &testing.T{}
	r := newBench(t, b.TempDir())
	r.NodeChanged = make(chan struct{})
	servers := make([]endpoints.Server, 1000)
	for n := range servers {
		servers[n] = manyEndpoints(n, 20)
	}
	r.declare(t, servers...)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		changed := slices.Clone(servers)
		changed[500] = manyEndpoints(500, 20+n%2)
		r.source.snap = &endpoints.Snapshot{Servers: changed}
		r.pass(r.ctx, true)
	}
}

func manyEndpoints(n, endpointsEach int) endpoints.Server {
	s := server("v1", nil)
	s.Key.Name = fmt.Sprintf("app-%04d", n)
	p := &s.Ports[0]
	p.Ways = []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: uint16(30000 + n)}}
	for i := range endpointsEach {
		p.Endpoints = append(p.Endpoints, endpoints.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i + 1)}), Port: 8080, Colour: "v1", Ready: true, Serving: true,
		})
	}
	return s
}
