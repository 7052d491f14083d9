package sync

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// A daemon killed before any op of a cut-over, by the op's number, over the kernel itself: at each op, and at each
// of those with which the next daemon goes on, what a new connection meets is the old colour and then the
// new one, never both, neither, or the old one again.
func TestKernelCutOverKilledAtEveryOp(t *testing.T) {
	kerneltest.Require(t)
	both := map[string]int{"v1": 3, "v2": 2}
	for _, steering := range []v1alpha1.Steering{v1alpha1.SteeringAddress, v1alpha1.SteeringMark} {
		for at := 0; ; at++ {
			killed := false
			t.Run(fmt.Sprintf("%s/%d", steering, at), func(t *testing.T) {
				kerneltest.Namespace(t)
				table, err := ipvs.Open()
				require.NoError(t, err)
				defer table.Close()
				rules, err := nft.Open()
				require.NoError(t, err)
				defer rules.Close()
				around := &node.Fake{}
				around.SetAddresses(netip.MustParseAddr("192.0.2.10"))
				dir, ctx := t.TempDir(), context.Background()
				w := &traffic{seen: map[nft.Endpoint][]string{}, read: func() (nft.Ruleset, map[ipvs.Key]ipvs.ServiceInfo) {
					now, _, err := rules.Read()
					require.NoError(t, err)
					services, err := table.Read(ctx)
					require.NoError(t, err)
					byKey := map[ipvs.Key]ipvs.ServiceInfo{}
					for _, s := range services {
						byKey[s.Key] = s
					}
					return now, byKey
				}}
				// daemon makes one pass as a new process would, and dies at an op.
				daemon := func(active string, die func() error) *Reconciler {
					s := server(active, both)
					s.Spec.Steering = steering
					log := logrus.New()
					log.SetOutput(io.Discard)
					ledger, err := LoadLedger(dir)
					require.NoError(t, err)
					r := &Reconciler{
						Config: Config{NodeName: "mast01", StateDir: dir}, IPVS: &deadlyTable{table, die}, NFT: &deadly{rules, die}, Node: around,
						Source: &source{snap: &endpoints.Snapshot{Servers: []endpoints.Server{s}}}, Log: log, ledger: ledger,
					}
					r.store.dir, r.status.dir = dir, dir
					for range 6 {
						r.pass(ctx, true)
					}
					return r
				}
				first := daemon("v1", func() error { return nil })
				require.Empty(t, first.lastError)
				for key := range first.target.Servers {
					w.watch = append(w.watch, MasqueradeElement(key))
				}
				done := 0
				second := daemon("v2", func() error {
					w.look()
					if done++; done > at {
						return errKilled
					}
					return nil
				})
				killed = second.lastError != ""
				third := daemon("v2", func() error { w.look(); return nil })
				w.look()
				require.Empty(t, third.lastError)
				for _, e := range w.watch {
					require.Equal(t, []string{"v1", "v2"}, slices.Compact(w.seen[e]), "%s", e)
				}
				now, services := w.read()
				if steering == v1alpha1.SteeringAddress {
					require.Empty(t, now.Steering)
					require.Len(t, services, len(w.watch))
				}
			})
			if !killed {
				require.Greater(t, at, 6)
				break
			}
		}
	}
}
