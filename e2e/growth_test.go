package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// Kernels from 7.0 on make their table of connections larger as it fills, and one that makes it grow
// by using a source port again was seen to be reset: at the kernel's own setting from 16 connections on.
func TestKernelReusedPortsWhileTheTableFills(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 3}}}, lab.Manifests{})
	w.start("v1")
	from := 5000
	for _, n := range []int{16, 16, 32, 64, 128} { // 16, 32, 64, 128 and 256 in all
		run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Ports: ports(from, n),
			Rate: 200, Clients: 8, Ending: lab.ServerEnds})
		require.NoError(t, run.Await(n+40, patience))
		healthy(t, run.Stop())
		from += n
	}
}
