package sync

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
)

// requireWholeStatus holds that the status that was made in steps, and is on disk, is the one that is made of
// everything, byte by byte. Nothing may be in conflict or left to do.
func requireWholeStatus(t require.TestingT, b *bench) {
	have, err := os.ReadFile(filepath.Join(b.StateDir, statusFile))
	require.NoError(t, err)
	kept := b.status
	defer func() { b.status = kept }()
	b.status.whole = time.Time{} // as if the table had been read by nobody yet
	want, err := json.Marshal(b.observe(observation{}, nil))
	require.NoError(t, err)
	require.Equal(t, string(want), string(have))
}

// What becomes of one server is in the status, and what is not touched is not made again.
func TestStatusInSteps(t *testing.T) {
	b := newBench(t, t.TempDir())
	told := 0
	b.status.told = func(*Status) { told++ }
	one, other := server("v1", map[string]int{"v1": 2, "v2": 1}), server("v1", map[string]int{"v1": 1})
	other.Key.Name, other.Ports[0].Ways = "other", []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30081}}
	b.declare(t, one, other)
	requireWholeStatus(t, b)
	require.NotZero(t, told)
	untouched := b.status.byKey[other.Key]

	b.busy(1, 1)
	changed := server("v2", map[string]int{"v1": 2, "v2": 2})
	status := b.declare(t, changed, other)
	requireWholeStatus(t, b)
	require.Len(t, status.Server(owner).Draining, 2) // by either way
	require.Equal(t, "v2", status.Server(owner).Status.Active)
	require.Equal(t, &untouched.text[0], &b.status.byKey[other.Key].text[0])

	before := told
	b.declare(t, changed, other)
	require.Equal(t, before, told, "nothing changed")

	// What is made anew and says the same is in memory once, as it was told.
	was := b.status.byKey[other.Key]
	b.status.whole = time.Time{}
	b.declare(t, changed, other)
	now := b.status.byKey[other.Key]
	require.NotSame(t, was, now)
	require.Same(t, was.status, now.status)

	// One that is declared no more stays while it drains, and the other is not affected.
	status = b.declare(t, changed)
	requireWholeStatus(t, b)
	require.Len(t, status.Server(other.Key).Draining, 1)
	status = b.declare(t)
	requireWholeStatus(t, b)
	require.Len(t, status.Server(owner).Draining, 2)

	// A file that could not be written is written when it can be.
	b.status.dir = filepath.Join(b.StateDir, "missing")
	b.declare(t, one)
	b.status.dir = b.StateDir
	status = b.declare(t, one)
	require.Equal(t, "v1", status.Server(owner).Declared)
}

// The order is that of namespace/name, as it always was, which is not that of the namespaces.
func TestStatusOrder(t *testing.T) {
	names := rapid.Custom(func(t *rapid.T) types.NamespacedName {
		part := rapid.StringMatching(`[a./-]{1,3}`)
		return types.NamespacedName{Namespace: part.Draw(t, "namespace"), Name: part.Draw(t, "name")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := names.Draw(t, "a"), names.Draw(t, "b")
		require.Equal(t, a.String() < b.String(), compareNames(a, b) < 0)
	})
}

// Whatever the steps were, what is derived in steps is what is derived of everything.
func TestDeriveInSteps(t *testing.T) {
	colours := []string{"v1", "v2"}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) endpoints.Server {
			s := server(rapid.SampledFrom(colours).Draw(t, "active"), rapid.MapOf(rapid.SampledFrom(colours), rapid.IntRange(0, 2)).Draw(t, "ready"))
			s.Key.Name = name
			s.Digest = rapid.StringN(1, 8, -1).Draw(t, "digest")
			s.Ports[0].Ways[0].Port = uint16(rapid.IntRange(30000, 30003).Draw(t, "node port")) // may be another's
			s.Ports[0].Ways[1].Addr = netip.AddrFrom4([4]byte{10, 96, 0, byte(rapid.IntRange(1, 4).Draw(t, "address"))})
			s.Ports[0].Ways[1].LocalOnly = rapid.Bool().Draw(t, "local")
			if rapid.Bool().Draw(t, "IPv6") {
				s.Ports[0].Ways = append(s.Ports[0].Ways, endpoints.Way{Kind: endpoints.ClusterIP, Addr: addr("fd00:96::10"), Port: 80})
			}
			for i := range s.Ports[0].Endpoints {
				e := &s.Ports[0].Endpoints[i]
				e.Ready = rapid.Bool().Draw(t, "is ready")
				e.Node = rapid.SampledFrom([]string{"", "mast01", "mast02"}).Draw(t, "node")
			}
			switch rapid.IntRange(0, 5).Draw(t, "refused") {
			case 0:
				s.Refused, s.Ports = &endpoints.Refusal{Gone: rapid.Bool().Draw(t, "gone")}, nil
			case 1:
				s.Refused, s.Coming, s.Ports = &endpoints.Refusal{}, s.Ports, nil
			}
			return s
		}
		var steps deriving
		servers := map[string]endpoints.Server{}
		in := Input{NodeName: "mast01", NodeAddresses: []netip.Addr{addr("192.0.2.10")}, Rollouts: map[types.NamespacedName]rollout.State{}}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			in.Snapshot = &endpoints.Snapshot{}
			for _, name := range []string{"a", "b", "c", "d"} {
				switch rapid.IntRange(0, 6).Draw(t, "change of "+name) {
				case 0:
					delete(servers, name)
				case 1, 2:
					servers[name] = draw(name)
				case 3:
					in.Rollouts[types.NamespacedName{Namespace: owner.Namespace, Name: name}] = rollout.State{Active: rapid.SampledFrom(colours).Draw(t, "decided")}
				}
				if s, ok := servers[name]; ok {
					in.Snapshot.Servers = append(in.Snapshot.Servers, s)
				}
			}
			if rapid.IntRange(0, 5).Draw(t, "addresses") == 0 {
				in.NodeAddresses = rapid.SampledFrom([][]netip.Addr{{addr("192.0.2.10")}, {addr("192.0.2.10"), addr("192.0.2.11")}, nil}).Draw(t, "node addresses")
			}
			given, before := steps.last.Servers, maps.Clone(steps.last.Servers)
			have, want := steps.next(in), Desire(in)
			require.Equal(t, want, have)
			require.Equal(t, before, given, "a target that was given away is not changed")
		}
	})
}
