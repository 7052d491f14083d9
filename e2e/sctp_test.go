package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// SCTP switches as TCP does: from outside, from a pod and from the node itself, IPv4 and IPv6.
func TestKernelSwitchSCTP(t *testing.T) {
	w := newWorld(t, lab.Config{SCTP: true, DualStack: true, ClientPod: true, Clients: 2, Colours: []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}}},
		lab.Manifests{Protocol: "SCTP", DualStack: true})
	w.start("v1")
	vip6 := netip.AddrPortFrom(w.NodeAddr6, 30080)
	loads := map[string]lab.Load{
		"from outside":  {From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 15, Clients: 4},
		"IPv6":          {From: w.Client, Target: vip6, Local: w.ClientAddrs6, Rate: 8, Clients: 2},
		"from a pod":    {From: w.Pod, Target: w.vip, Rate: 8, Clients: 2},
		"from the node": {From: w.Node(), Target: w.vip, Rate: 8, Clients: 2},
	}
	runs := map[string]*lab.Run{}
	for name, load := range loads {
		load.SCTP, load.Ending = true, lab.ServerEnds
		w.eventually(patience, name+" reaches v1", func() error {
			if c := load.Once(); c.Colour != "v1" || c.Err != nil {
				return fmt.Errorf("%v", c)
			}
			return nil
		})
		runs[name] = w.Start(load)
	}
	for _, run := range runs {
		require.NoError(t, run.Await(3, patience))
	}
	began, done := w.rounds(6)
	for name, run := range runs {
		report := run.Stop()
		t.Logf("%s: %v", name, report)
		healthy(t, report)
		w.oneInstantEach(report, began, done)
	}
}
