package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
)

// game is the machine itself with one node, as commands see it.
type game struct {
	t       *testing.T
	now     time.Time
	d       *declared
	stuck   bool // the node does nothing
	acted   int64
	staged  string
	weight  int32
	serving string
}

// newGame has v1 active, and endpoints of v1 and v2.
func newGame(t *testing.T, how string) *game {
	vs := &v1alpha1.VirtualServer{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "default"}}
	require.NoError(t, yaml.UnmarshalStrict([]byte(how), &vs.Spec.Switch))
	vs.Spec.Service.Name, vs.Spec.Active = "myapp", "v1"
	v1alpha1.Default(vs)
	g := &game{t: t, now: now, d: &declared{
		key: types.NamespacedName{Namespace: "default", Name: "myapp"}, spec: &vs.Spec,
		colours: map[string]rollout.Colour{"v1": {All: 2, Ready: 2}, "v2": {All: 2, Ready: 2}, "v3": {All: 1, Ready: 1}},
	}}
	g.pass(time.Hour)
	require.Equal(t, v1alpha1.PhaseSteady, g.d.state.Phase)
	return g
}

// declare is a command, up to its write.
func (g *game) declare(i *intent, err error) attempt {
	g.t.Helper()
	require.NoError(g.t, err)
	return g.change(i.change)
}

func (g *game) change(c endpoints.Change) attempt {
	written := *g.d
	written.spec = g.d.spec.DeepCopy()
	c.To(written.spec)
	g.d = &written
	return attemptOf(g.d)
}

// pass lets time go by, and the machine and the node do what they do.
func (g *game) pass(d time.Duration) *game {
	for end := g.now.Add(d); ; {
		for range 4 {
			if !g.stuck {
				g.acted, g.staged, g.weight, g.serving = g.d.state.Decision, g.d.state.Candidate, g.d.state.Weight, g.d.state.Active
			}
			next, want := rollout.Next(g.d.state, rollout.Input{
				Now: g.now, Spec: g.d.spec, Colours: g.d.colours,
				Nodes: []rollout.Node{{Name: "node01", Decision: g.acted, Staged: g.staged, Weight: g.weight, Serving: g.serving}},
			})
			g.d.state = next
			if !want.Due.IsZero() && want.Due.After(g.now) && !want.Due.After(end) && g.settled() {
				g.now = want.Due
			}
		}
		if g.now = g.now.Add(time.Second); g.now.After(end) {
			g.now = end
			return g
		}
	}
}

func (g *game) settled() bool { return g.stuck || g.acted == g.d.state.Decision }

// see is what a follower in a cluster would.
func (g *game) see(a attempt) (outcome, string) {
	verified := g.acted == g.d.state.Decision && g.serving == g.d.spec.Active && g.d.state.Candidate == ""
	s := sighting{declared: g.d.spec.Active, state: g.d.state, verified: verified, lacks: "the node lacks"}
	s.answered = !g.d.state.Equal(a.before) || settled(g.d.spec, g.d.state)
	return a.judge(s)
}

func (g *game) is(want outcome, a attempt, why string) {
	g.t.Helper()
	got, message := g.see(a)
	require.Equal(g.t, want, got, "%s; %+v", message, g.d.state)
	require.Contains(g.t, message, why)
}

func (g *game) to(colour string, force bool) attempt {
	g.t.Helper()
	return g.declare(toSwitch(g.d, colour, force))
}

// A switch is followed through every phase.
func TestJudgeFollowsToTheEnd(t *testing.T) {
	g := newGame(t, "{steps: [{weight: 10, hold: 1m}], observe: {window: 5m}}")
	a := g.to("v2", false)
	g.is(running, a, "the node lacks") // nobody has seen it
	g.stuck = true
	g.pass(time.Second).is(running, a, "has not acted on the decision yet")
	g.stuck = false
	g.pass(5*time.Second).is(running, a, "")
	require.Equal(t, v1alpha1.PhaseStepping, g.d.state.Phase)
	g.pass(2*time.Minute).is(running, a, "")
	require.Equal(t, v1alpha1.PhaseObserving, g.d.state.Phase)
	g.pass(10*time.Minute).is(done, a, "")
	require.Equal(t, "v2", g.d.state.Active)
	g.is(done, g.to("v2", false), "") // it is so already
	b := g.to("v1", false)
	g.is(running, b, "")
	g.pass(time.Minute).is(done, b, "")
	g.is(done, a, "") // it was, whatever came after
}

func TestJudgeTellsHowItEnded(t *testing.T) {
	const observed = "{observe: {window: 5m}}"
	bad := func(g *game) { g.d.colours["v2"] = rollout.Colour{All: 2, Ready: 1} }
	t.Run("blocked, and not by an older block", func(t *testing.T) {
		g := newGame(t, "{gate: {timeout: 1m}}")
		bad(g)
		a := g.to("v2", false)
		g.pass(30*time.Second).is(running, a, "1 of 2 endpoints")
		g.pass(time.Minute).is(blocked, a, "NotReady: 1 of 2 endpoints")
		_, err := toSwitch(g.d, "v2", false)
		require.ErrorContains(t, err, "`pointsman abort default/myapp --wait`")
		g.declare(toAbort(g.d))
		g.pass(time.Second)
		b := g.to("v2", false) // the same declaration as before
		g.is(running, b, "the node lacks")
		g.pass(time.Second).is(running, b, "1 of 2 endpoints")
		g.d.colours["v2"] = rollout.Colour{All: 2, Ready: 2}
		g.pass(time.Minute).is(done, b, "")
		g.is(blocked, a, "")
	})
	t.Run("forced out of a block", func(t *testing.T) {
		g := newGame(t, "{gate: {timeout: 1m}}")
		bad(g)
		g.to("v2", false)
		g.pass(2 * time.Minute)
		require.Equal(t, v1alpha1.PhaseBlocked, g.d.state.Phase)
		a := g.to("v2", true)
		g.is(running, a, "")
		g.pass(time.Second).is(done, a, "")
	})
	t.Run("forced while another try waits for an endpoint", func(t *testing.T) {
		g := newGame(t, "{gate: {timeout: 1m}}")
		g.d.colours["v2"] = rollout.Colour{}
		first := g.change(endpoints.Change{Active: ptr("v2")})
		g.pass(2*time.Second).is(running, first, "no ready endpoint")
		bad(g)
		a := g.to("v2", true)
		g.is(running, a, "")
		g.pass(time.Second).is(done, a, "")
		require.Equal(t, v1alpha1.OutcomeBlocked, g.d.state.History[1].Outcome)
	})
	t.Run("rolled back, then again", func(t *testing.T) {
		g := newGame(t, observed)
		a := g.to("v2", false)
		g.pass(time.Minute).is(running, a, "")
		bad(g)
		g.pass(time.Minute).is(rolledBack, a, "NotReady: 1 of 2 endpoints of v2")
		_, err := toSwitch(g.d, "v2", false)
		require.ErrorContains(t, err, "RolledBack")
		b := g.declare(toAbort(g.d))
		g.is(running, b, "")
		g.pass(time.Second).is(done, b, "")
		g.d.colours["v2"] = rollout.Colour{All: 2, Ready: 2}
		c := g.to("v2", false)
		g.is(running, c, "")
		g.pass(time.Hour).is(done, c, "")
		g.is(rolledBack, a, "")
	})
	t.Run("held", func(t *testing.T) {
		g := newGame(t, "{observe: {window: 5m, onFailure: Hold}}")
		a := g.to("v2", false)
		g.pass(time.Minute)
		bad(g)
		g.pass(time.Minute).is(held, a, "onFailure: Hold leaves v2 active")
	})
	t.Run("aborted by another", func(t *testing.T) {
		g := newGame(t, "{paused: true}")
		a := g.to("v2", false)
		g.pass(time.Hour).is(running, a, "spec.switch.paused holds")
		g.declare(toAbort(g.d))
		g.is(superseded, a, "to v1")
		g.pass(time.Second).is(superseded, a, "aborted")
	})
	t.Run("another colour by another", func(t *testing.T) {
		g := newGame(t, observed)
		a := g.to("v2", false)
		g.pass(time.Minute)
		b := g.to("v3", false)
		g.is(superseded, a, "to v3")
		g.pass(time.Hour).is(superseded, a, "to v3")
		g.is(done, b, "")
	})
	t.Run("deleted", func(t *testing.T) {
		g := newGame(t, observed)
		a := g.to("v2", false)
		how, why := a.judge(sighting{})
		assert.Equal(t, superseded, how)
		assert.Contains(t, why, "deleted")
	})
	t.Run("a node that does not follow keeps it from being done", func(t *testing.T) {
		g := newGame(t, "{gate: {timeout: 1m}}")
		a := g.to("v2", false)
		for g.d.state.Phase != v1alpha1.PhaseSwitching {
			next, _ := rollout.Next(g.d.state, rollout.Input{Now: g.now, Spec: g.d.spec, Colours: g.d.colours,
				Nodes: []rollout.Node{{Name: "node01", Decision: g.d.state.Decision, Staged: g.d.state.Candidate}}})
			g.d.state = next
		}
		g.stuck = true
		g.pass(10*time.Minute).is(running, a, "the node lacks")
		require.Equal(t, v1alpha1.PhaseSteady, g.d.state.Phase)
		g.stuck = false
		g.pass(time.Second).is(done, a, "")
	})
}

// The history holds ten: what is new in it is found all the same.
func TestNewer(t *testing.T) {
	at := func(n int) v1alpha1.SwitchRecord {
		return v1alpha1.SwitchRecord{To: "v2", Started: metav1.NewTime(now.Add(time.Duration(n) * time.Second))}
	}
	history := func(from, to int) (out []v1alpha1.SwitchRecord) {
		for n := to; n >= from; n-- {
			out = append(out, at(n))
		}
		return out
	}
	assert.Empty(t, newer(history(1, 10), history(1, 10)))
	assert.Equal(t, history(11, 11), newer(history(1, 10), history(2, 11)))
	assert.Equal(t, history(1, 1), newer(nil, history(1, 1)))
	assert.Equal(t, history(11, 20), newer(history(1, 10), history(11, 20)))
	assert.Empty(t, newer(nil, nil))
}

// By default a wait is longer than what the machine may take.
func TestPatience(t *testing.T) {
	g := newGame(t, "{steps: [{weight: 10, hold: 1m}, {weight: 50, hold: 2m}], observe: {window: 5m}, gate: {timeout: 30s}}")
	began := g.now
	a := g.to("v2", false)
	for how := running; how == running; how, _ = g.see(a) {
		g.pass(time.Second)
	}
	g.is(done, a, "")
	assert.Greater(t, patience(g.d.spec), g.now.Sub(began))
	assert.Less(t, patience(newGame(t, "{gate: {timeout: 1s}}").d.spec), time.Minute)
}

func ptr[T any](v T) *T { return &v }
