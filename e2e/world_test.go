package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/internal/lab"
)

// patience is for what has to happen at some time, on a machine that may be slow.
const patience = time.Minute

// world is a laboratory with the program in it.
type world struct {
	*lab.Lab
	*lab.Pointsman
	t         *testing.T
	manifests lab.Manifests
	daemon    *lab.Daemon
	vip       netip.AddrPort // where users come in
}

// newWorld makes a laboratory and its manifests, with v1 active. The daemon is not started.
func newWorld(t *testing.T, config lab.Config, manifests lab.Manifests) *world {
	t.Helper()
	kerneltest.Require(t)
	l, err := lab.New(config)
	require.NoError(t, err)
	dir := t.TempDir()
	if manifests.Name == "" {
		manifests.Name = "myapp"
	}
	manifests.Dir = filepath.Join(dir, "manifests")
	require.NoError(t, os.Mkdir(manifests.Dir, 0o755))
	require.NoError(t, manifests.WriteAll(l, "v1"))
	path, err := filepath.Abs(os.Getenv(lab.ProgramVariable))
	require.NoError(t, err)
	w := &world{
		Lab: l, t: t, manifests: manifests, vip: netip.AddrPortFrom(l.NodeAddr, 30080),
		Pointsman: &lab.Pointsman{Binary: path, Node: l.Node, NodeName: "mast01",
			Manifests: manifests.Dir, State: filepath.Join(dir, "state")},
	}
	require.NoError(t, os.Mkdir(w.State, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			w.explain()
		}
		require.NoError(t, l.Close())
	})
	return w
}

// in is the world for a part of the test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.t = t
	return &part
}

// explain prints what there is to know about a failure.
func (w *world) explain() {
	if w.daemon != nil {
		w.t.Logf("the daemon said:\n%s", w.daemon.Output())
	}
	if table, err := w.Node().Run("ipvsadm", "-Ln"); err == nil {
		w.t.Logf("the table:\n%s", table)
	}
}

// Node is the node's namespace.
func (w *world) Node() *lab.Namespace { return w.Lab.Node }

// start starts the daemon and waits until the kernel is as the manifests say.
func (w *world) start(colour string) {
	w.t.Helper()
	var err error
	w.daemon, err = w.Run()
	require.NoError(w.t, err)
	w.eventually(patience, "the kernel is right after the start", func() error { return w.serves(colour) })
}

// call runs a command of the program.
func (w *world) call(args ...string) lab.Result {
	w.t.Helper()
	r, err := w.Call(args...)
	require.NoError(w.t, err)
	return r
}

// switchTo switches and waits for the end of it.
func (w *world) switchTo(colour string) {
	w.t.Helper()
	r := w.call("switch", w.manifests.Name, colour, "--wait", "--timeout", (3 * patience).String())
	require.Zero(w.t, r.Status, "switch to %s: %v", colour, r)
}

// serves says what is wrong with the kernel's table when the colour is to be served: every node
// address has the virtual server, and its real servers with weight are the colour's backends.
func (w *world) serves(colour string) error {
	return w.servesOnly(lab.Addrs(w.Colour(colour)))
}

func (w *world) servesOnly(want []netip.AddrPort) error {
	table, err := w.Node().Table()
	if err != nil {
		return err
	}
	protocol := "TCP"
	if w.manifests.Protocol != "" {
		protocol = w.manifests.Protocol
	}
	addrs := []netip.Addr{w.NodeAddr}
	for _, network := range w.Config.Networks {
		addrs = append(addrs, network.Addr().Next()) // the node's own in the pod network
	}
	var errs []error
	for _, addr := range addrs {
		at := netip.AddrPortFrom(addr, w.vip.Port())
		v, ok := table.Find(protocol, at)
		if !ok {
			errs = append(errs, fmt.Errorf("there is no virtual server %s %v", protocol, at))
			continue
		}
		if got := v.Serving(); !slices.Equal(got, want) {
			errs = append(errs, fmt.Errorf("%s %v serves %v, not %v", protocol, at, got, want))
		}
	}
	return errors.Join(errs...)
}

// eventually polls until there is no error, and says how long that took.
func (w *world) eventually(within time.Duration, what string, wrong func() error) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		err := wrong()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within {
			require.NoError(w.t, err, "%s: not within %v", what, within)
		}
		time.Sleep(20 * time.Millisecond) // what asks takes from what is waited for: a guest has one processor
	}
}

// table is the table as an operator sees it, without the counts of connections.
func (w *world) table() string {
	w.t.Helper()
	text, err := w.Node().Run("ipvsadm", "-Sn")
	require.NoError(w.t, err)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ruleset is all of nftables as an operator sees it.
func (w *world) ruleset() string {
	w.t.Helper()
	text, err := w.Node().Run("nft", "list", "ruleset")
	require.NoError(w.t, err)
	return text
}

// healthy fails the test for each connection that did not go well.
func healthy(t *testing.T, report lab.Report) {
	t.Helper()
	require.NotEmpty(t, report)
	require.Empty(t, report.Lost().Lines(), "of %d connections", len(report))
}

// open opens long-lived connections from the clients.
func (w *world) open(n int) *lab.Sessions {
	w.t.Helper()
	s, err := w.Hold(lab.Held{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Count: n, Every: 200 * time.Millisecond, Timeout: 10 * time.Second})
	require.NoError(w.t, err)
	return s
}

// intact fails the test unless every connection still exchanges data, and with the right colour.
func (w *world) intact(colour string, s *lab.Sessions) {
	w.t.Helper()
	require.NoError(w.t, s.Await(patience), "long-lived connections to %s", colour)
	for _, each := range s.Report() {
		require.Equal(w.t, colour, each.Colour)
	}
}
