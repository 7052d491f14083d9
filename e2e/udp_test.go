package e2e

import (
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
	run, err := w.Flow(lab.Flows{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Count: flows, Every: 50 * time.Millisecond})
	require.NoError(t, err)
	time.Sleep(500 * time.Millisecond)
	for _, s := range []struct{ old, new string }{{"v1", "v2"}, {"v2", "v1"}} {
		asked := time.Now()
		w.switchTo(s.new)
		returned := time.Now()
		time.Sleep(500 * time.Millisecond)
		d := run.Report()
		t.Logf("during the switch to %s: %v; after: %v", s.new, d.Between(asked, returned), d.Between(returned, time.Time{}))
		after := d.Between(returned, time.Time{}).ByColour()
		require.Zero(t, after[s.old])
		require.Greater(t, after[s.new], flows)
		// A datagram that was sent this moment is not lost yet.
		settled := d.Between(asked, time.Now().Add(-200*time.Millisecond))
		require.LessOrEqual(t, settled.Lost(), flows, "at most one a flow")
	}
	all := run.Stop()
	require.Zero(t, run.Refused())
	t.Log(all)
	require.LessOrEqual(t, all.Lost(), 2*flows)
}
