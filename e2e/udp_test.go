package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// A UDP flow never ends by itself, so a switch moves it: at most one datagram a flow is lost.
func TestKernelUDPFlowsMove(t *testing.T) {
	const flows = 10
	w := newWorld(t, lab.Config{UDP: true, Clients: 2, Colours: []lab.Colour{{Name: "v1", Backends: 3}, {Name: "v2", Backends: 3}}},
		lab.Manifests{Protocol: "UDP"})
	w.start("v1")
	// As many datagrams as a guest that is slow can answer; and what is answered late is not lost.
	run, err := w.Flow(lab.Flows{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Count: flows, Every: 200 * time.Millisecond, Patience: 10 * time.Second})
	require.NoError(t, err)
	answered := func(since time.Time, colour string) {
		w.eventually(patience, "two datagrams of each flow are answered by "+colour, func() error {
			if got := run.Report().Between(since, time.Time{}); got.ByColour()[colour] < 2*flows {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	answered(time.Time{}, "v1")
	var done []turn
	for _, s := range []struct{ old, new string }{{"v1", "v2"}, {"v2", "v1"}} {
		done = append(done, w.turn(s.old, s.new))
		answered(done[len(done)-1].returned, s.new)
	}
	all := run.Stop()
	require.Zero(t, run.Refused())
	t.Log(all)
	for i, s := range done {
		next := time.Time{}
		if i+1 < len(done) {
			next = done[i+1].asked
		}
		t.Logf("during the switch to %s: %v; after: %v", s.new, all.Between(s.asked, s.returned), all.Between(s.returned, next))
		require.Zero(t, all.Between(s.returned, next).ByColour()[s.old])
		require.LessOrEqual(t, all.Between(s.asked, next).Lost(), flows, "at most one a flow")
	}
	require.LessOrEqual(t, all.Lost(), 2*flows)
}
