package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// accepted is the condition Accepted of the scenario's VirtualServer, as the API server has it.
func (c *Cluster) accepted() (metav1.Condition, error) {
	object, err := c.Dynamic.Resource(schema.GroupVersionResource{Group: "pointsman.io", Version: "v1alpha1", Resource: "virtualservers"}).
		Namespace("default").Get(context.Background(), "myapp", metav1.GetOptions{})
	if err != nil {
		return metav1.Condition{}, err
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return metav1.Condition{}, err
	}
	var vs v1alpha1.VirtualServer
	if err := json.Unmarshal(text, &vs); err != nil {
		return metav1.Condition{}, err
	}
	if found := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionAccepted); found != nil {
		return *found, nil
	}
	return metav1.Condition{}, fmt.Errorf("there is no condition Accepted yet")
}

// Beside kube-proxy in ipvs mode without the exclusion, which deletes pointsman's virtual servers at each
// of its syncs. Keyed by address they are made again at once, and the daemon, the VirtualServer's status and preflight say
// what is wrong and what to set. That set, they stay. Left to itself the daemon keys them by mark instead, and
// nothing has to be set.
func TestClusterUndone(t *testing.T) {
	c := New(t)
	account := c.install()
	n := c.Node(Master)
	c.Apply(labelled)
	c.Apply(other)
	c.Apply(deployment("v1", 4))
	c.Apply(client(n.Name()))
	c.Endpoints("default", "myapp", 4)
	c.Endpoints("default", "other", 2)
	c.Apply(virtualServer)
	daemon := c.Pointsman(n, account, "--steering", "Address")
	proxy := c.KubeProxy(n, "ipvs")
	c.Eventually(Patience, "the virtual server is there", func() error { return c.serves(n, n.nodePort(), "version=v1") })
	const complaint = "another program deletes"

	// A cluster in which something changes all the time: each change is a sync.
	f := c.drive(n, c.ClientAddrs, 15, 10)
	began := time.Now()
	syncs := 0
	var wrong metav1.Condition
	c.Eventually(Patience, "condition Accepted says who", func() (err error) {
		c.Apply(strings.ReplaceAll(other, "nodePort: 30090", fmt.Sprintf("nodePort: %d", 30090+syncs%2)))
		syncs++
		time.Sleep(time.Second)
		if wrong, err = c.accepted(); err == nil && wrong.Reason != "UndoneByOther" {
			err = fmt.Errorf("it is %+v", wrong)
		}
		return err
	})
	for way, l := range f.lost(began) {
		t.Logf("beside kube-proxy in ipvs mode without the exclusion, %d changes in %v, by %s: %v, %.2f%%", syncs, time.Since(began).Round(time.Second), way, l, 100*share(l))
	}
	f.stop()

	t.Logf("condition: %s=%s %s: %s", wrong.Type, wrong.Status, wrong.Reason, wrong.Message)
	require.Equal(t, metav1.ConditionFalse, wrong.Status)
	exclusion := strings.Split(c.exclusion(n, "myapp"), ",")
	for _, want := range append(exclusion, "kube-proxy in ipvs mode", "ipvs.excludeCIDRs") {
		require.Contains(t, wrong.Message, want)
	}
	require.Equal(t, 1, strings.Count(daemon.Output(), complaint), "said once, not each time:\n%s", tail(daemon.Output(), 20))
	r := c.Call(n, "preflight")
	require.Contains(t, r.Stdout, "in ipvs mode")
	require.Contains(t, r.Stdout, n.Addr.String())
	r = c.admin("status", "myapp")
	require.Contains(t, r.Stdout, "UndoneByOther", "%v", r)

	// What it says to do is right: done so, a sync deletes nothing. That the complaint ends then, 100 s after, is
	// shown in package sync, where time can be moved.
	excluded := between(wrong.Message, "add ", " to its")
	proxy.Kill()
	proxy = c.KubeProxy(n, "ipvs", "--ipvs-exclude-cidrs="+excluded)
	ports := 30200
	lossless := func(how string) {
		f := c.drive(n, c.ClientAddrs, 10, 5)
		began := time.Now()
		for range 4 {
			ports++
			port := netip.AddrPortFrom(n.Addr, uint16(ports))
			c.Apply(strings.ReplaceAll(other, "nodePort: 30090", fmt.Sprintf("nodePort: %d", port.Port())))
			c.served(n, "kube-proxy has made the change", port)
		}
		require.NoError(t, f.await(30))
		for way, l := range f.lost(began) {
			require.True(t, l.none(), "by %s %s: %v\n%s", way, how, l, f.runs[way].Report().Lost().Lines())
		}
		f.stop()
	}
	lossless("with the exclusion")
	require.Equal(t, 1, strings.Count(daemon.Output(), complaint))

	proxy.Kill()
	require.NoError(t, daemon.Terminate(Patience))
	daemon = c.Pointsman(n, account)
	c.KubeProxy(n, "ipvs")
	c.Eventually(Patience, "it is keyed by mark", func() error {
		c.Apply(strings.ReplaceAll(other, "nodePort: 30090", fmt.Sprintf("nodePort: %d", 30090+syncs%2)))
		syncs++
		time.Sleep(time.Second)
		r := c.Call(n, "status", "-o", "json", "--state-dir", c.stateDir(n))
		if !strings.Contains(strings.ReplaceAll(r.Stdout, " ", ""), `"steering":"Mark"`) {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	c.answers(n.nodePort(), "v1")
	lossless("by mark, with nothing reconfigured")
	require.Zero(t, strings.Count(daemon.Output(), complaint))
}

// share is the part of the new connections that failed.
func share(l lost) float64 {
	failed := 0
	for _, n := range l.failed {
		failed += n
	}
	return float64(failed) / float64(max(1, l.total))
}

// between is what of the text is between two others.
func between(text, after, before string) string {
	_, text, _ = strings.Cut(text, after)
	text, _, _ = strings.Cut(text, before)
	return text
}
