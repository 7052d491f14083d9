package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// healthAddress is where a daemon serves its health, in its node's namespace.
const healthAddress = "127.0.0.1:9967"

// program is the program under test with this process's environment, but for what the test machinery put there.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Getenv(lab.ProgramVariable), args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "POINTSMAN_") })
	return cmd
}

// stateDir is the state directory of the node's daemon. It outlives the daemon, as a node's disk does.
func (c *Cluster) stateDir(n *Node) string { return filepath.Join(c.folder, "state-"+n.Name()) }

// Pointsman starts the daemon on the node, as the account that the kubeconfig is of, and leaves it running.
func (c *Cluster) Pointsman(n *Node, kubeconfig string, flags ...string) *lab.Daemon {
	c.t.Helper()
	args := slices.Concat([]string{
		"run", "--kubeconfig", kubeconfig, "--node-name", n.Name(), "--state-dir", c.stateDir(n),
		"--cluster-cidrs", PodNetwork.String() + "," + podNetwork6.String(), "--health-address", healthAddress,
	}, flags)
	d, err := n.Daemon(program(args...), nil)
	require.NoError(c.t, err)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("on %s, the end of what pointsman said:\n%s", n.Name(), tail(d.Output(), 40))
		}
		d.Kill()
	})
	return d
}

// Call runs a command of the program in the node's namespace to its end.
func (c *Cluster) Call(n *Node, args ...string) lab.Result {
	c.t.Helper()
	cmd := program(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	require.NoError(c.t, n.Start(cmd))
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(c.t, err)
	}
	return lab.Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode(), Took: time.Since(began)}
}

// serves says what is wrong with the node's table when the pods of a version are to be served at an
// address, and nothing else.
func (c *Cluster) serves(n *Node, at netip.AddrPort, selector string) error {
	var want []netip.AddrPort
	for _, pod := range c.Pods("default", selector) {
		if pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
			want = append(want, netip.AddrPortFrom(netip.MustParseAddr(pod.Status.PodIP), 80))
		}
	}
	slices.SortFunc(want, netip.AddrPort.Compare)
	table, err := n.Table()
	if err != nil {
		return err
	}
	v, ok := table.Find("TCP", at)
	if !ok {
		return fmt.Errorf("on %s there is no virtual server TCP %v", n.Name(), at)
	}
	if got := v.Serving(); !slices.Equal(got, want) {
		return fmt.Errorf("on %s, TCP %v serves %v, not %v", n.Name(), at, got, want)
	}
	return nil
}

// nodePort is the node's address at the scenario's node port.
func (n *Node) nodePort() netip.AddrPort { return netip.AddrPortFrom(n.Addr, 30080) }

// servesEverywhere waits until each node serves the pods of a selector at the node port.
func (c *Cluster) servesEverywhere(selector string) time.Duration {
	c.t.Helper()
	return c.Eventually(Patience, "every node serves "+selector, func() error {
		var errs []error
		for _, n := range c.Nodes {
			errs = append(errs, c.serves(n, n.nodePort(), selector))
		}
		return errors.Join(errs...)
	})
}

// status is what the node's daemon last saw.
func (c *Cluster) status(n *Node) (out map[string]any) {
	c.t.Helper()
	r := c.Call(n, "status", "-o", "json", "--state-dir", c.stateDir(n))
	if r.Stdout != "" {
		require.NoError(c.t, json.Unmarshal([]byte(r.Stdout), &out))
	}
	return out
}
