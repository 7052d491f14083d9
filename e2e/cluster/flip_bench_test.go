//go:build bench

package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

const (
	flips     = 6
	flipWatch = 45 * time.Second // that a flip is watched for at most
	flipCalm  = 3 * time.Second  // that it is watched for when every client has had the new colour thrice
)

// flipServices are the scenario's Service, and one like it with session affinity.
const flipServices = service + `
---
apiVersion: v1
kind: Service
metadata: {name: affine, namespace: default}
spec:
  type: NodePort
  sessionAffinity: ClientIP
  selector: {app: myapp}
  ports: [{port: 80, targetPort: 80, nodePort: 30081}]
`

// The kinds of clients.
const (
	newPorts = "a new source port each time"
	oldPorts = "source ports used again at once"
	affine   = "session affinity"
)

var flipKinds = []string{newPorts, oldPorts, affine}

// flipTally is what the flips of one program came to, by kind of client.
type flipTally struct {
	settled  map[string][]time.Duration // from the API write until the last connection to the old colour began, on any node
	never    map[string]int             // flips after which one still did when the watching ended
	lost     map[string]int
	wrong    map[string]int // to the old colour, begun after one to the new was answered on the same node
	total    map[string]int
	cut, old int // of the open connections
}

// TestClusterBenchFlip prints a switch beside what kube-proxy in ipvs mode makes of another selector in the Service.
func TestClusterBenchFlip(t *testing.T) {
	c := New(t)
	account := c.install()
	for _, o := range []string{flipServices, deployment("v1", 4), deployment("v2", 4), deployment("v3", 4)} {
		c.Apply(o)
	}
	for _, name := range []string{"myapp", "affine"} {
		c.Endpoints("default", name, 12)
	}
	both := func(patch func(name string) error) error {
		var group errgroup.Group
		for _, name := range []string{"myapp", "affine"} {
			group.Go(func() error { return patch(name) })
		}
		return group.Wait()
	}
	services := c.Kube.CoreV1().Services("default")
	patchService := func(name, patch string) error {
		_, err := services.Patch(context.Background(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	selector := func(colour string) error {
		return both(func(name string) error {
			return patchService(name, fmt.Sprintf(`{"spec":{"selector":{"version":%q}}}`, colour))
		})
	}
	require.NoError(t, selector("v1"))
	for _, name := range []string{"myapp", "affine"} {
		c.Endpoints("default", name, 4)
	}
	var proxies []*lab.Daemon
	for _, n := range c.Nodes {
		proxies = append(proxies, c.KubeProxy(n, "ipvs"))
	}
	proxy := c.flip(selector)

	for i, n := range c.Nodes {
		proxies[i].Kill()
		for _, command := range []string{"nft flush ruleset", "ipvsadm -C", "ip link del kube-ipvs0"} {
			words := strings.Fields(command)
			_, err := n.Run(words[0], words[1:]...)
			require.NoError(t, err)
		}
	}
	require.NoError(t, both(func(name string) error {
		return patchService(name, `{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":"pointsman"}},"spec":{"selector":{"version":null}}}`)
	}))
	c.Apply(virtualServer)
	c.Apply(strings.NewReplacer("name: myapp, namespace", "name: affine, namespace", "{name: myapp}", "{name: affine}").Replace(virtualServer))
	for _, n := range c.Nodes {
		c.Pointsman(n, account)
	}
	servers := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers")).Namespace("default")
	ours := c.flip(func(colour string) error {
		return both(func(name string) error {
			_, err := servers.Patch(context.Background(), name, types.MergePatchType, []byte(fmt.Sprintf(`{"spec":{"active":%q}}`, colour)), metav1.PatchOptions{})
			return err
		})
	})
	t.Log(flipTable(proxy, ours))
}

// flip changes the colour some times, round three of them, and watches what becomes of clients on every node.
func (c *Cluster) flip(to func(colour string) error) flipTally {
	c.t.Helper()
	colours := []string{"v1", "v2", "v3"}
	ways := []func(*Node) lab.Load{
		func(n *Node) lab.Load { return lab.Load{Target: n.nodePort(), Ending: lab.Aborts} },
		func(n *Node) lab.Load {
			return lab.Load{Target: n.nodePort(), Ending: lab.ServerEnds, Ports: []uint16{5000, 5001, 5002, 5003, 5004, 5005}}
		},
		func(n *Node) lab.Load {
			return lab.Load{Target: netip.AddrPortFrom(n.Addr, 30081), Ending: lab.Aborts}
		},
	}
	runs := map[string]map[*Node]*lab.Run{}
	for i, kind := range flipKinds {
		runs[kind] = map[*Node]*lab.Run{}
		for j, n := range c.Nodes {
			load := ways[i](n)
			at := len(c.Nodes)*i + j
			load.From, load.Local, load.Rate, load.Clients, load.Timeout = c.Client, c.ClientAddrs[at:at+1], 5, 3, 5*time.Second
			c.Eventually(Patience, "v1 serves "+kind+" on "+n.Name(), func() error {
				if one := (lab.Load{From: c.Client, Target: load.Target, Local: load.Local, Timeout: 2 * time.Second, Ending: lab.Aborts}).Once(); one.Colour != "v1" {
					return fmt.Errorf("%v", one)
				}
				return nil
			})
			runs[kind][n] = c.Lab.Start(load)
		}
	}
	held := c.holds(2)
	out := flipTally{settled: map[string][]time.Duration{}, never: map[string]int{}, lost: map[string]int{}, wrong: map[string]int{}, total: map[string]int{}}
	time.Sleep(5 * time.Second)
	for i := range flips {
		old, next := colours[i%3], colours[(i+1)%3]
		asked := time.Now()
		require.NoError(c.t, to(next))
		for time.Since(asked) < flipWatch && !allHave(runs, asked, next) {
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(flipCalm)
		ended := time.Now()
		for kind, each := range runs {
			var last time.Duration
			for n, run := range each {
				report := run.Report().Since(asked.Add(-time.Second)).Until(ended)
				out.total[kind] += len(report)
				out.lost[kind] += len(report.Failed())
				out.wrong[kind] += len(report.Mixed(old, next))
				late := report.Where(func(c lab.Connection) bool { return c.Colour != "" && c.Colour != next && c.Start.After(asked) })
				if len(late) > 0 {
					last = max(last, late[len(late)-1].Start.Sub(asked))
				}
				if failed := report.Failed(); len(failed) > 0 {
					c.t.Logf("%s to %s, %s, on %s: %s", old, next, kind, n.Name(), failed.Lines())
				}
			}
			out.settled[kind] = append(out.settled[kind], last)
			if last > flipWatch {
				out.never[kind]++
			}
		}
		c.t.Logf("%s to %s: settled %v", old, next, latest(out.settled))
	}
	for _, each := range runs {
		for _, run := range each {
			run.Stop()
		}
	}
	for _, sessions := range held {
		for _, one := range sessions.Abort() {
			out.old++
			if !one.Alive() {
				out.cut++
				c.t.Logf("cut: %v", one)
			}
		}
	}
	return out
}

// allHave says whether the last three connections of each client on each node had the colour.
func allHave(runs map[string]map[*Node]*lab.Run, since time.Time, colour string) bool {
	for _, each := range runs {
		for _, run := range each {
			report := run.Report().Since(since)
			if len(report) < 3 || len(report[len(report)-3:].To(colour)) < 3 {
				return false
			}
		}
	}
	return true
}

func latest(all map[string][]time.Duration) (out []string) {
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		out = append(out, fmt.Sprintf("%s %v", kind, all[kind][len(all[kind])-1].Round(time.Millisecond)))
	}
	return out
}

func flipTable(proxy, ours flipTally) string {
	out := fmt.Sprintf("\n%d changes of the colour of two Services on three nodes, each watched until all clients had it thrice and for %v more, kernel %s, in one emulated guest, whose processor all of it shares\n", flips, flipCalm, kernelRelease())
	row := func(what, a, b string) { out += fmt.Sprintf("%-98s %34s %26s\n", what, a, b) }
	row("", "kube-proxy, selector", "pointsman, spec.active")
	for _, kind := range flipKinds {
		figure := func(f flipTally) string {
			text := fmt.Sprintf("%v, %v", quantile(f.settled[kind], 0.5).Round(time.Millisecond), slices.Max(f.settled[kind]).Round(time.Millisecond))
			if f.never[kind] > 0 {
				text += fmt.Sprintf(" (%d of %d not in %v)", f.never[kind], flips, flipWatch)
			}
			return text
		}
		row("API write to the last connection to the old colour, median and worst; "+kind, figure(proxy), figure(ours))
	}
	for _, kind := range flipKinds {
		figure := func(f flipTally) string { return fmt.Sprintf("%d of %d", f.lost[kind], f.total[kind]) }
		row("new connections lost; "+kind, figure(proxy), figure(ours))
	}
	for _, kind := range flipKinds {
		figure := func(f flipTally) string { return fmt.Sprintf("%d of %d", f.wrong[kind], f.total[kind]) }
		row("to the old colour after one to the new, on the same node; "+kind, figure(proxy), figure(ours))
	}
	row("open connections cut", fmt.Sprintf("%d of %d", proxy.cut, proxy.old), fmt.Sprintf("%d of %d", ours.cut, ours.old))
	return out
}
