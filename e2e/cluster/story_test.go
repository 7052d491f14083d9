package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// story is what the API server told of VirtualServer myapp and of the nodes' reports, change by change: a phase that
// lasts for a moment is not missed. It outlives the API server.
type story struct {
	c *Cluster

	mu      sync.Mutex
	moments []moment
	reports map[string][]v1alpha1.NodeVirtualServer // by node
	at      int                                     // of moments: where next goes on
}

// moment is the VirtualServer as it was told.
type moment struct {
	seen time.Time
	*v1alpha1.VirtualServer
}

func (m moment) String() string {
	s := &m.Status
	text := fmt.Sprintf("%s decision %d, %s, active %q, candidate %q, weight %d, nodes %+v", m.seen.Format("15:04:05.000"), s.Decision, s.Phase, s.Active, s.Candidate, s.Weight, s.Nodes)
	if s.Reason != "" {
		text += fmt.Sprintf(", %s: %s", s.Reason, s.Message)
	}
	return text
}

// tell begins a story, which ends with the test.
func (c *Cluster) tell() *story {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	s := &story{c: c, reports: map[string][]v1alpha1.NodeVirtualServer{}}
	c.t.Cleanup(func() {
		cancel()
		all.Wait()
		if c.t.Failed() {
			c.t.Logf("what became of the VirtualServer:\n%s", s)
		}
	})
	servers := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers")).Namespace("default")
	all.Go(func() { follow(ctx, servers, fields.OneTermEqualSelector("metadata.name", "myapp").String(), s.server) })
	all.Go(func() {
		follow(ctx, c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("nodereports")), "", s.report)
	})
	return s
}

// follow gives each state of each object, in order, as soon as it is told. It comes back soon after an outage.
func follow(ctx context.Context, from dynamic.ResourceInterface, only string, see func(*unstructured.Unstructured)) {
	for ; ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		list, err := from.List(ctx, metav1.ListOptions{FieldSelector: only})
		if err != nil {
			continue
		}
		for i := range list.Items {
			see(&list.Items[i])
		}
		changes, err := from.Watch(ctx, metav1.ListOptions{FieldSelector: only, ResourceVersion: list.GetResourceVersion()})
		if err != nil {
			continue
		}
		for change := range changes.ResultChan() {
			if u, ok := change.Object.(*unstructured.Unstructured); ok && change.Type != watch.Error {
				see(u)
			}
		}
	}
}

func (s *story) server(u *unstructured.Unstructured) {
	vs := &v1alpha1.VirtualServer{}
	if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, vs) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.moments); n == 0 || s.moments[n-1].ResourceVersion != vs.ResourceVersion {
		s.moments = append(s.moments, moment{time.Now(), vs})
	}
}

func (s *story) report(u *unstructured.Unstructured) {
	report := &v1alpha1.NodeReport{}
	if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, report) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range report.Status.VirtualServers {
		if e.Name == "myapp" {
			s.reports[report.Name] = append(s.reports[report.Name], e)
		}
	}
}

// String is the story with what is the same twice in a row told once.
func (s *story) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	last := ""
	for _, m := range s.moments {
		text := m.String()
		if _, same, _ := strings.Cut(text, " "); same != last {
			lines, last = append(lines, text), same
		}
	}
	return strings.Join(lines, "\n")
}

// next waits for a moment that is so, from where the last one was found, that one included.
func (s *story) next(what string, is func(moment) bool) (found moment) {
	s.c.t.Helper()
	s.c.Eventually(Patience, what, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := s.at; i < len(s.moments); i++ {
			if is(s.moments[i]) {
				s.at, found = i, s.moments[i]
				return nil
			}
		}
		if len(s.moments) == 0 {
			return fmt.Errorf("nothing was told yet")
		}
		return fmt.Errorf("it is %v", s.moments[len(s.moments)-1])
	})
	return found
}

// phase waits for a phase of the switch to a colour.
func (s *story) phase(phase v1alpha1.Phase, to string) moment {
	s.c.t.Helper()
	return s.next(fmt.Sprintf("the switch to %s is %s", to, phase), func(m moment) bool { return m.Status.Target == to && m.Status.Phase == phase })
}

// waits waits until a switch is held by spec.switch.paused with all of the live nodes, this many, staged.
func (s *story) waits(to string, nodes int32) moment {
	s.c.t.Helper()
	return s.next(fmt.Sprintf("%d nodes have staged %s", nodes, to), func(m moment) bool {
		return m.Status.Candidate == to && m.Status.Reason == "Paused" && m.Status.Nodes.Total == nodes && m.Status.Nodes.Staged == nodes
	})
}

// succeeded waits for the end of the switch to a colour, which must be that it was made.
func (s *story) succeeded(to string) moment {
	s.c.t.Helper()
	before := int64(0) // of an end that is known
	s.mu.Lock()
	if len(s.moments) > 0 {
		before = s.moments[s.at].Status.Decision
	}
	s.mu.Unlock()
	m := s.next("the switch to "+to+" is over", func(m moment) bool {
		failed := m.Status.Phase == v1alpha1.PhaseBlocked || m.Status.Phase == v1alpha1.PhaseRolledBack
		return m.Status.Target == to && (m.Status.Phase == v1alpha1.PhaseSteady && m.Status.Active == to || failed && m.Status.Decision > before)
	})
	require.Equal(s.c.t, v1alpha1.PhaseSteady, m.Status.Phase, "%v", m)
	last := m.Status.History[0]
	require.Equal(s.c.t, to, last.To)
	require.Equal(s.c.t, v1alpha1.OutcomeSucceeded, last.Outcome, "%+v", last)
	return m
}

// forward requires that nobody went back: status.decision only grew, and so did the one that each node acted on; the
// active colours were these, one after the other.
func (s *story) forward(actives ...string) {
	s.c.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var seen []string
	last := int64(0)
	for _, m := range s.moments {
		require.GreaterOrEqual(s.c.t, m.Status.Decision, last, "%v", m)
		last = m.Status.Decision
		if active := m.Status.Active; active != "" && (len(seen) == 0 || seen[len(seen)-1] != active) {
			seen = append(seen, active)
		}
	}
	require.Equal(s.c.t, actives, seen, "status.active over time")
	for node, entries := range s.reports {
		last := int64(0)
		for _, e := range entries {
			require.GreaterOrEqual(s.c.t, e.Decision, last, "on %s: %+v", node, e)
			last = e.Decision
		}
	}
}

// reported is what the node said of myapp, report by report.
func (s *story) reported(n *Node) []v1alpha1.NodeVirtualServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reports[n.Name()])
}

// declare changes the spec of VirtualServer myapp: JSON that is merged into it.
func (c *Cluster) declare(spec string) {
	c.t.Helper()
	_, err := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers")).Namespace("default").
		Patch(context.Background(), "myapp", types.MergePatchType, []byte(`{"spec":`+spec+`}`), metav1.PatchOptions{})
	require.NoError(c.t, err, spec)
}

// statusWrite is a write of the VirtualServer's status by a daemon, as the audit log has it.
type statusWrite struct {
	RequestReceivedTimestamp metav1.MicroTime
	ResponseStatus           struct{ Code int }
	RequestObject            struct {
		Status struct{ Decision int64 }
	}
}

func (c *Cluster) statusWrites() (out []statusWrite) {
	c.t.Helper()
	text, err := askFor("/audit")
	require.NoError(c.t, err)
	for line := range strings.Lines(text) {
		if strings.Contains(line, `"verb":"update"`) && strings.Contains(line, "/virtualservers/myapp/status") {
			var write statusWrite
			require.NoError(c.t, json.Unmarshal([]byte(line), &write), line)
			out = append(out, write)
		}
	}
	return out
}

// refusedWrites counts the writes of the status that the API server refused, since somebody else had written meanwhile.
func (c *Cluster) refusedWrites() (n int) {
	c.t.Helper()
	for _, write := range c.statusWrites() {
		if write.ResponseStatus.Code == http.StatusConflict {
			n++
		}
	}
	return n
}

// commitOf is the time at which the API server was asked to write a decision into the VirtualServer's status, by the
// guest's clock, and how precisely that is known: the host is asked for its time, which takes a moment.
func (c *Cluster) commitOf(decision int64) (at time.Time, precision time.Duration) {
	c.t.Helper()
	ahead, precision := c.hostClock()
	for _, write := range c.statusWrites() {
		if write.ResponseStatus.Code == http.StatusOK && write.RequestObject.Status.Decision == decision {
			if asked := write.RequestReceivedTimestamp.Add(-ahead); at.IsZero() || asked.Before(at) {
				at = asked
			}
		}
	}
	require.False(c.t, at.IsZero(), "the audit log tells of no write of decision %d", decision)
	return at, precision
}

// hostClock is how far the host's clock is ahead of the guest's, and how precisely that is known.
func (c *Cluster) hostClock() (ahead, precision time.Duration) {
	c.t.Helper()
	precision = time.Hour
	for range 10 {
		began := time.Now()
		text, err := askFor("/clock")
		took := time.Since(began)
		require.NoError(c.t, err)
		nanos, err := strconv.ParseInt(text, 10, 64)
		require.NoError(c.t, err)
		if took/2 < precision {
			precision = took / 2
			ahead = time.Unix(0, nanos).Sub(began.Round(0).Add(took / 2))
		}
	}
	return ahead, precision
}
