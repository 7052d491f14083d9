package sync

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/rollout"
)

// BenchmarkLedger is what it costs to note that one real server of 1,000 virtual servers drains.
func BenchmarkLedger(b *testing.B) {
	l, store := NewLedger(), ledgerStore{dir: b.TempDir()}
	drains := &Owned{}
	for i := range 1000 {
		name := types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("app-%04d", i)}
		key := ipvs.Key{Protocol: ipvs.TCP, Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80}
		drains = &Owned{Owner: name, Drain: DrainPolicy{Timeout: 5 * time.Minute}}
		l.Owned[key] = drains
		l.Rollouts[name] = rollout.State{Active: "v1", Target: "v1", Decision: 1, Phase: v1alpha1.PhaseSteady, Declaration: "0123456789abcdef", Of: "0b8e0b7e-7a3b-4a0e-9a3b-2f6f0e2f8a11"}
	}
	real := ipvs.RealKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
	b.ReportAllocs()
	for at := time.Unix(0, 0).UTC(); b.Loop(); at = at.Add(time.Second) {
		drains.Draining = map[ipvs.RealKey]Draining{real: {Colour: "v1", Since: at}}
		l.dirty = true
		require.NoError(b, store.save(l))
	}
}

// TestLedgerText: the text of any ledger is what json.Marshal makes of it.
func TestLedgerText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLedger()
		text := rapid.SampledFrom([]string{"", "v1", "a\"b\\c<&>", "é", "\x7f\n", "\xff"})
		at := rapid.SampledFrom([]time.Time{{}, time.Unix(1700000000, 5000000).UTC()})
		for i := range rapid.IntRange(0, 4).Draw(t, "owned") {
			key := ipvs.Key{
				Mark: rapid.Uint32Range(0, 2).Draw(t, "mark"), Protocol: rapid.SampledFrom([]ipvs.Protocol{0, ipvs.TCP, ipvs.UDP}).Draw(t, "protocol"),
				Addr: rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}).Draw(t, "address"), Port: uint16(i),
			}
			o := &Owned{
				Owner: types.NamespacedName{Namespace: text.Draw(t, "namespace"), Name: text.Draw(t, "name")}, Lane: text.Draw(t, "lane"),
				Protocol: rapid.SampledFrom([]ipvs.Protocol{0, ipvs.SCTP}).Draw(t, "of"), Drain: DrainPolicy{time.Duration(rapid.Int64().Draw(t, "timeout")), rapid.Bool().Draw(t, "cut")},
			}
			for j := range rapid.IntRange(0, 2).Draw(t, "draining") {
				if o.Draining == nil {
					o.Draining = map[ipvs.RealKey]Draining{}
				}
				o.Draining[ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(j)})}] = Draining{text.Draw(t, "colour"), at.Draw(t, "since")}
			}
			l.Owned[key] = o
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "rollouts") {
			s := rollout.State{
				Active: text.Draw(t, "active"), Previous: text.Draw(t, "previous"), Retiring: text.Draw(t, "retiring"), Target: text.Draw(t, "target"),
				Candidate: text.Draw(t, "candidate"), Decision: rapid.Int64Range(-1, 1).Draw(t, "decision"), Phase: v1alpha1.Phase(text.Draw(t, "phase")),
				Declaration: text.Draw(t, "declaration"), Of: text.Draw(t, "of"),
			}
			switch rapid.IntRange(0, 4).Draw(t, "more") {
			case 0:
				s.Weight, s.Step, s.Rollback = 5, 1, true
			case 1:
				s.Started, s.Since = at.Draw(t, "started"), at.Draw(t, "since")
			case 2:
				s.History, s.Hooks.Before = []v1alpha1.SwitchRecord{{To: "v2"}}, &v1alpha1.HookStatus{Calls: 1}
			case 3:
				s.Reason, s.Message = text.Draw(t, "reason"), text.Draw(t, "message")
			}
			l.Rollouts[types.NamespacedName{Namespace: rapid.SampledFrom([]string{"a", "a-b", "a.b", "b"}).Draw(t, "namespace"), Name: fmt.Sprint(i)}] = s
		}
		if rapid.Bool().Draw(t, "sysctls") {
			l.Sysctls["net.ipv4.ip_forward"] = text.Draw(t, "value")
		}
		l.Undone = rapid.Bool().Draw(t, "undone")

		boot, err := bootID()
		require.NoError(t, err)
		j := ledgerJSON{Boot: boot, Owned: []ownedJSON{}, Rollouts: map[string]rollout.State{}, Sysctls: l.Sysctls, Undone: l.Undone}
		for name, s := range l.Rollouts {
			j.Rollouts[name.String()] = s
		}
		for key, o := range l.Owned {
			e := ownedJSON{Key: key, Owner: o.Owner.String(), Lane: o.Lane, Protocol: o.Protocol, Drain: o.Drain}
			for real, d := range o.Draining {
				e.Draining = append(e.Draining, drainingJSON{Real: real, Colour: d.Colour, Since: d.Since})
			}
			slices.SortFunc(e.Draining, func(a, b drainingJSON) int { return compareReals(a.Real, b.Real) })
			j.Owned = append(j.Owned, e)
		}
		slices.SortFunc(j.Owned, func(a, b ownedJSON) int { return compareKeys(a.Key, b.Key) })
		want, err := json.Marshal(j)
		require.NoError(t, err)
		got, err := l.encode()
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	})
}
