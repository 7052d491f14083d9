package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// scene is a cluster with the deploy folder applied and a daemon on each node, which runs as the account
// that the folder gives it.
type scene struct {
	*Cluster
	whole   *Cluster // of the whole test: daemons outlive the part that starts them
	account string
	daemons map[*Node]*lab.Daemon
}

// newScene applies the objects before the daemons start.
func newScene(t *testing.T, objects ...string) *scene {
	t.Helper()
	c := New(t)
	s := &scene{Cluster: c, whole: c, account: c.install(), daemons: map[*Node]*lab.Daemon{}}
	for _, o := range objects {
		c.Apply(o)
	}
	for _, n := range c.Nodes {
		s.start(n)
	}
	return s
}

// start starts the node's daemon.
func (s *scene) start(n *Node) {
	s.t.Helper()
	s.daemons[n] = s.whole.Pointsman(n, s.account)
}

// part is the scene for a part of the test.
func (s *scene) part(name string, do func(*scene)) {
	s.t.Helper()
	s.t.Run(name, func(t *testing.T) {
		part := *s
		part.Cluster = s.In(t)
		do(&part)
	})
}

// ready waits until every daemon says that its kernel was read back as declared.
func (s *scene) ready() time.Duration {
	s.t.Helper()
	return s.Eventually(Patience, "every daemon is ready", func() error {
		var errs []error
		for _, n := range s.Nodes {
			_, err := n.Get("http://" + healthAddress + "/readyz")
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// stall is for how long a guest may do nothing at all, on a machine that has other things to do: an answer that is
// not to be lost may take that long.
const stall = 20 * time.Second

// exchange is how often an open connection exchanges data: often enough to be seen cut, and seldom enough for dozens of them beside
// three kube-proxies on one emulated processor.
const exchange = time.Second

// loads opens new connections to the node port on each node, of two clients each. They end with a reset, so
// that IPVS forgets them in ten seconds, not two minutes.
func (c *Cluster) loads(rate int) map[*Node]*lab.Run { return c.loadsFor(rate, stall) }

// loadsFor has connections wait for an answer for no longer than timeout: there may be none.
func (c *Cluster) loadsFor(rate int, timeout time.Duration) map[*Node]*lab.Run {
	runs := map[*Node]*lab.Run{}
	for _, n := range c.Nodes {
		runs[n] = c.load(n, rate, timeout)
	}
	return runs
}

func (c *Cluster) load(n *Node, rate int, timeout time.Duration) *lab.Run {
	i := 2 * slices.Index(c.Nodes, n)
	return c.Lab.Start(lab.Load{From: c.Client, Target: n.nodePort(), Local: c.ClientAddrs[i : i+2], Rate: rate, Clients: 12, Timeout: timeout, Ending: lab.Aborts})
}

// holds opens long-lived connections to the node port on each node.
func (c *Cluster) holds(count int) map[*Node]*lab.Sessions {
	c.t.Helper()
	out := map[*Node]*lab.Sessions{}
	for _, n := range c.Nodes {
		held, err := c.Lab.Hold(lab.Held{From: c.Client, Target: n.nodePort(), Local: c.ClientAddrs, Count: count, Every: exchange, Timeout: stall})
		require.NoError(c.t, err)
		out[n] = held
	}
	return out
}

// healthy requires that no connection of the loads failed and that every one was answered by the colours.
func (c *Cluster) healthy(runs map[*Node]*lab.Run, colours ...string) {
	c.t.Helper()
	for n, run := range runs {
		require.NoError(c.t, run.Await(10, Patience))
		report := run.Report()
		require.Empty(c.t, report.Lost().Lines(), "on %s, of %d", n.Name(), len(report))
		for _, colour := range keys(report.ByColour()) {
			require.Contains(c.t, colours, colour, "on %s", n.Name())
		}
	}
}

// intact requires that every long-lived connection goes on with the backend that it had.
func (c *Cluster) intact(held map[*Node]*lab.Sessions) {
	c.t.Helper()
	for n, sessions := range held {
		require.NoError(c.t, sessions.Await(Patience), "on %s", n.Name())
	}
}

// virtualServer reads one of namespace default.
func (c *Cluster) virtualServer(name string) (*v1alpha1.VirtualServer, error) {
	u, err := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers")).Namespace("default").
		Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	vs := &v1alpha1.VirtualServer{}
	return vs, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, vs)
}

// condition waits until a condition of the present generation is as wanted and says all of the texts, and
// gives its message.
func (c *Cluster) condition(name, kind string, status metav1.ConditionStatus, reason string, says ...string) (message string) {
	c.t.Helper()
	c.Eventually(Patience, fmt.Sprintf("VirtualServer %s is %s=%s, %s", name, kind, status, reason), func() error {
		vs, err := c.virtualServer(name)
		if err != nil {
			return err
		}
		is := meta.FindStatusCondition(vs.Status.Conditions, kind)
		if is == nil || is.ObservedGeneration != vs.Generation || is.Status != status || is.Reason != reason {
			return fmt.Errorf("generation %d has the condition %+v", vs.Generation, is)
		}
		message = is.Message
		for _, text := range says {
			if !strings.Contains(message, text) {
				return fmt.Errorf("its message is %q, without %q", message, text)
			}
		}
		return nil
	})
	return message
}

// answers waits until one connection after the other to the address is answered by the colour.
func (c *Cluster) answers(at netip.AddrPort, colour string) time.Duration {
	c.t.Helper()
	return c.Eventually(Patience, fmt.Sprintf("%v is answered by %s", at, colour), func() error {
		for range 5 {
			one := lab.Load{From: c.Client, Target: at, Timeout: 2 * time.Second, Ending: lab.Aborts}.Once()
			if one.Class != lab.OK || one.Colour != colour {
				return errors.New(one.String())
			}
		}
		return nil
	})
}

// kubectl runs kubectl, which must do what it is asked.
func (c *Cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl("", args...)
	require.NoError(c.t, err)
	return out
}

// setActive declares the active colour with kubectl, as somebody does who knows no `pointsman switch`.
func (c *Cluster) setActive(name, colour string) {
	c.t.Helper()
	c.kubectl("patch", "vs", name, "--type=merge", "-p", fmt.Sprintf(`{"spec":{"active":%q}}`, colour))
}

// counted waits until this many nodes count as live, and each was read back as declared. A node counts from its
// first report on: nobody knows of a daemon that was killed before it.
func (s *scene) counted(nodes int32) {
	s.t.Helper()
	s.Eventually(Patience, fmt.Sprintf("%d nodes count", nodes), func() error {
		vs, err := s.virtualServer("myapp")
		if err == nil && (vs.Status.Nodes.Total != nodes || vs.Status.Nodes.Switched != nodes) {
			err = fmt.Errorf("%+v", vs.Status.Nodes)
		}
		return err
	})
}
