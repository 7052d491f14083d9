package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
	"github.com/pointsman/pointsman/sync"
)

// waits is until some phase has a reason, and its message says all that.
func (w *world) waits(phase v1alpha1.Phase, reason string, says ...string) *sync.ServerStatus {
	w.t.Helper()
	var s *sync.ServerStatus
	w.eventually(patience, fmt.Sprintf("%s: %s", phase, reason), func() error {
		silent := func(text string) bool { return !strings.Contains(s.Status.Message, text) }
		if s = w.myapp(); s == nil || s.Status.Phase != phase || s.Status.Reason != reason || slices.ContainsFunc(says, silent) {
			text, _ := json.Marshal(s)
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	return s
}

// A gate that does not hold blocks the switch with the reason, and traffic stays where it is, load and table; force passes
// it, and a pause holds what would go on.
func TestKernelGate(t *testing.T) {
	v := newVersions(t, 2)
	w := v.world
	w.start("v1")
	table := w.table()
	held := w.open(3)
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 30, Clients: 6})
	untouched := func() {
		t.Helper()
		require.NoError(t, run.Await(20, patience))
		report := run.Report()
		healthy(t, report)
		require.Len(t, report.To("v1"), len(report), "%v", report)
	}
	const nothing = `gate: {timeout: 6s, probe: {tcp: {port: 4711}}}`

	w.declare("v2", "{"+nothing+"}")
	w.waits(v1alpha1.PhaseStaging, "ProbeFailed", "mast01 passes 0 of 2 endpoints of v2, and 2 are asked for (10.244.140.77:4711: connection refused")
	s := w.until(v1alpha1.PhaseBlocked, "v1")
	require.Equal(t, "ProbeFailed", s.Status.Reason)
	require.Contains(t, s.Status.Message, `"v1" stays active and the switch is not tried again by itself`)
	require.Equal(t, []string{"v1", "v2", "Blocked", "ProbeFailed"}, record(s.Status.History[0]))
	untouched()
	w.eventually(patience, "what was staged is gone", func() error {
		if now := w.table(); now != table {
			return fmt.Errorf("%s", now)
		}
		return nil
	})

	// The same gate, forced, and paused before that.
	w.declare("v2", "{"+nothing+", force: v2, paused: true}")
	w.waits(v1alpha1.PhaseStaging, "Paused", "spec.switch.paused holds the switch here")
	time.Sleep(7 * time.Second) // longer than the gate's timeout, which does not run
	require.Equal(t, v1alpha1.PhaseStaging, w.myapp().Status.Phase)
	untouched()
	asked := time.Now()
	w.declare("v2", "{"+nothing+", force: v2}")
	s = w.until(v1alpha1.PhaseSteady, "v2")
	require.Equal(t, []string{"v1", "v2", "Succeeded", ""}, record(s.Status.History[0]))
	require.NoError(t, w.serves("v2"))
	require.NoError(t, run.Await(30, patience))
	report := run.Stop()
	healthy(t, report)
	require.Empty(t, report.Mixed("v1", "v2").Lines())
	require.Len(t, report.Until(asked).To("v1"), len(report.Until(asked)))
	w.intact("v1", held)

	// The last ten switches, the newest first. A switch without --force takes the force back, so the gate goes.
	w.declare("v2", "{}")
	for i := range 10 {
		w.switchTo([]string{"v1", "v2"}[i%2])
	}
	s = w.until(v1alpha1.PhaseSteady, "v2")
	require.Len(t, s.Status.History, 10)
	for i, r := range s.Status.History {
		from, to := "v1", "v2"
		if i%2 == 1 {
			from, to = to, from
		}
		require.Equal(t, []string{from, to, "Succeeded", ""}, record(r), "%d", i)
	}
}

func record(r v1alpha1.SwitchRecord) []string {
	return []string{r.From, r.To, string(r.Outcome), r.Reason}
}

// Steps hand over shares of new connections: what is measured is what was declared, each for as long as it is held.
func TestKernelSteps(t *testing.T) {
	v := newVersions(t, 4)
	w := v.world
	// Of different numbers of endpoints the shares are the same.
	require.NoError(t, w.manifests.WriteSlice("v2", lab.Ready(w.Colour("v2"))[:3]...))
	w.start("v1")
	held := w.open(3)
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 60, Clients: 6})
	require.NoError(t, run.Await(20, patience))
	w.declare("v2", "{steps: [{weight: 10, hold: 9s}, {weight: 50, hold: 9s}], observe: {window: 3s}}")
	asked := time.Now()
	var bounds [2][2]time.Time // of each step, as seen
	for i, weight := range []int32{10, 50} {
		w.eventually(patience, fmt.Sprintf("%d %%", weight), func() error {
			if s := w.myapp(); s == nil || s.Status.Phase != v1alpha1.PhaseStepping || s.Weight != weight || !s.Verified {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		bounds[i][0] = time.Now()
		time.Sleep(7 * time.Second) // less than it is held
		s := w.myapp()
		require.Equal(t, []any{v1alpha1.PhaseStepping, weight, "v1"}, []any{s.Status.Phase, s.Weight, s.Status.Active})
		bounds[i][1] = time.Now()
	}
	s := w.until(v1alpha1.PhaseSteady, "v2")
	require.Equal(t, []string{"v1", "v2", "Succeeded", ""}, record(s.Status.History[0]))
	require.GreaterOrEqual(t, s.Status.History[0].Ended.Sub(s.Status.History[0].Started.Time), 20*time.Second, "9 s, 9 s and the window, in whole seconds")
	require.NoError(t, w.servesOnly(lab.Addrs(w.Colour("v2"))[:3]))
	require.NoError(t, run.Await(20, patience))
	ended := time.Now()
	require.NoError(t, run.Await(20, patience))
	report := run.Stop()
	healthy(t, report)
	w.intact("v1", held)
	require.Len(t, report.Until(asked).To("v1"), len(report.Until(asked)))
	require.Len(t, report.Since(ended).To("v2"), len(report.Since(ended)))
	// wrr goes round by the weights, 27 and 4 for four and three endpoints at 10 %, and gives the lighter colour its
	// turns together: what is measured is right to those of one round, 12 of 120 and 12 of 24.
	for i, want := range []float64{10, 50} {
		step := report.Since(bounds[i][0]).Until(bounds[i][1])
		got := 100 * float64(len(step.To("v2"))) / float64(len(step))
		t.Logf("%.0f %% of new connections, measured %.1f %% of %d", want, got, len(step))
		require.Greater(t, len(step), 120)
		require.InDelta(t, want, got, 1+100*12/float64(len(step)))
	}
}

// hook is called around a switch.
type hook struct {
	mu    gosync.Mutex
	fails int // so many more calls
	calls []v1alpha1.VirtualServerStatus
}

func (h *hook) serve(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Namespace, Name string
		Status          v1alpha1.VirtualServerStatus
	}
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil, r.Method != http.MethodPost, body.Namespace != "default", body.Name != "myapp":
		http.Error(w, "what is this?", http.StatusBadRequest)
		return
	case h.fails > 0:
		h.fails--
		http.Error(w, "the change freeze is on", http.StatusServiceUnavailable)
	}
	h.calls = append(h.calls, body.Status)
}

func (h *hook) seen() []v1alpha1.VirtualServerStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

// The hook before is a gate for as long as it fails; the one after is told how the switch ended.
func TestKernelHooks(t *testing.T) {
	w := newVersions(t, 2).world
	before, after := &hook{fails: 1}, &hook{}
	w.serve(w.Node(), netip.MustParseAddrPort("127.0.0.1:9091"), before.serve)
	w.serve(w.Node(), netip.MustParseAddrPort("127.0.0.1:9092"), after.serve)
	w.start("v1")
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 30, Clients: 6})
	w.declare("v2", `{hooks: {before: {url: "http://127.0.0.1:9091/before"}, after: {url: "http://127.0.0.1:9092/after"}}}`)
	s := w.waits(v1alpha1.PhaseStaging, "HookFailed", `spec.switch.hooks.before, http://127.0.0.1:9091/before, failed: hook: http://127.0.0.1:9091/before: HTTP status 503, want 2xx: body begins "the change freeze is on\n"`)
	require.NoError(t, w.serves("v1"))
	require.Empty(t, after.seen())
	held := time.Now()
	require.NoError(t, run.Await(10, patience))
	s = w.until(v1alpha1.PhaseSteady, "v2")
	require.Len(t, before.seen(), 2)
	for _, status := range before.seen() {
		require.Equal(t, []any{"v1", v1alpha1.PhaseStaging}, []any{status.Active, status.Phase})
		require.Len(t, status.Colours, 2)
	}
	w.eventually(patience, "the hook after is called", func() error {
		if len(after.seen()) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	told := after.seen()[0]
	require.Equal(t, "v2", told.Active)
	require.Equal(t, []string{"v1", "v2", "Succeeded", ""}, record(told.History[0]))
	w.eventually(patience, "that is in the status", func() error {
		s = w.myapp()
		if h := s.Status.Hooks.After; h == nil || !h.Succeeded || h.Calls != 1 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	require.EqualValues(t, 2, s.Status.Hooks.Before.Calls)
	report := run.Stop()
	healthy(t, report)
	require.Len(t, report.Until(held).To("v1"), len(report.Until(held)))
	time.Sleep(3 * time.Second)
	require.Len(t, after.seen(), 1, "once")
}
