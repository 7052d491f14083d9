package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// A manifest that is bad changes nothing in the kernel, under traffic; the status says what is
// wrong and where, and mending the file is all that it takes.
func TestKernelBadManifests(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 4}, {Name: "v2", Backends: 4}}}, lab.Manifests{})
	w.start("v1")
	w.eventually(patience, "verified", func() error { return w.verified("v1") })
	table := w.table()
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Rate: 40, Clients: 8})
	held := w.open(3)

	server, slice, service := w.manifests.VirtualServerFile(), w.manifests.SliceFile("v1"), w.manifests.ServiceFile()
	for _, c := range []struct {
		name  string
		file  string
		spoil func(string) string
	}{
		{"half a file", server, func(s string) string { return s[:len(s)/2] }},
		{"not YAML", server, func(string) string { return "\x00\xff{{{" }},
		{"an unknown field", server, func(s string) string { return strings.Replace(s, "active:", "actve:", 1) }},
		{"no colour", server, func(s string) string { return strings.Replace(s, "active: v1", `active: ""`, 1) }},
		{"a port that is none", service, func(s string) string { return strings.Replace(s, "nodePort: 30080", "nodePort: 300800", 1) }},
		{"half a service", service, func(s string) string { return s[:strings.Index(s, "ports:")] + "ports: [" }},
		{"no label", service, func(s string) string {
			return strings.Replace(s, "service-proxy-name: pointsman", "service-proxy-name: other", 1)
		}},
		{"an address that is none", slice, func(s string) string { return strings.Replace(s, "10.244.", "10.2444.", 1) }},
		{"half a slice", slice, func(s string) string { return s + "- {addresses: [10.244." }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			good, err := os.ReadFile(c.file)
			require.NoError(t, err)
			bad := c.spoil(string(good))
			require.NotEqual(t, string(good), bad)
			require.NoError(t, os.WriteFile(c.file, []byte(bad), 0o644))
			w.eventually(patience, "the status says so", func() error {
				r := w.call("status")
				said := r.Stdout + r.Stderr
				if strings.Contains(said, filepath.Base(c.file)) || strings.Contains(said, "service-proxy-name") {
					return nil
				}
				return fmt.Errorf("the status is %v", r)
			})
			require.Equal(t, table, w.table(), "the table has changed")
			require.NoError(t, os.WriteFile(c.file, good, 0o644))
			w.eventually(patience, "mended", func() error { return w.verified("v1") })
			require.Zero(t, w.status().exit)
			require.Equal(t, table, w.table())
		})
	}
	w.switchTo("v2")
	done := time.Now()
	require.NoError(t, run.Await(10, patience))
	w.intact("v1", held)
	report := run.Stop()
	healthy(t, report)
	require.Zero(t, report.Since(done).ByColour()["v1"])
}

// Endpoints come and go under traffic: the table follows, and nobody is refused.
func TestKernelEndpointsChange(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 6}, {Name: "v2", Backends: 1}}}, lab.Manifests{})
	w.start("v1")
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Rate: 40, Clients: 8})
	all := w.Colour("v1")
	for _, n := range []int{1, 6, 3, 2, 5} {
		require.NoError(t, w.manifests.WriteSlice("v1", lab.Ready(all[:n])...))
		w.eventually(patience, fmt.Sprint(n, " endpoints"), func() error { return w.servesOnly(lab.Addrs(all[:n])) })
		at := time.Now()
		require.NoError(t, run.AwaitSince(at, 20, patience))
		report := run.Report().Since(at)
		for _, addr := range report.Backends() {
			require.Contains(t, lab.Addrs(all[:n]), netip.AddrPortFrom(addr, 80))
		}
		require.Equal(t, map[string]int{"v1": len(report)}, report.ByColour())
	}
	healthy(t, run.Stop())
}
