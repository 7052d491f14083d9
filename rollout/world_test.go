package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// world is a cluster as Next sees it: nodes do what was decided when they are told to.
type world struct {
	t    require.TestingT
	s    State
	in   Input
	want Wants
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newWorld has v1 active, three nodes, and three ready endpoints of v1 and v2 each.
func newWorld(t require.TestingT, change string) *world {
	w := &world{t: t, in: Input{Now: epoch, Colours: map[string]Colour{"v1": {3, 3}, "v2": {3, 3}}}}
	w.spec("v1", change)
	for i := range 3 {
		w.in.Nodes = append(w.in.Nodes, Node{Name: fmt.Sprintf("node%d", i+1)})
	}
	w.ask()
	w.follow()
	require.Equal(t, v1alpha1.PhaseSteady, w.s.Phase)
	return w
}

// spec declares a colour, with what is under spec.switch.
func (w *world) spec(active, change string) *world {
	vs := &v1alpha1.VirtualServer{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "default"}}
	require.NoError(w.t, yaml.UnmarshalStrict([]byte(change), &vs.Spec.Switch))
	vs.Spec.Service.Name, vs.Spec.Active = "myapp", active
	v1alpha1.Default(vs)
	require.Empty(w.t, v1alpha1.Validate(vs))
	w.in.Spec = &vs.Spec
	return w
}

// declare changes the colour only.
func (w *world) declare(active string) *world {
	spec := *w.in.Spec
	spec.Active = active
	w.in.Spec = &spec
	return w.ask()
}

// ask is what the coordinator does. The State goes by way of a status each time, as there.
func (w *world) ask() *world {
	next, want := Next(w.s, w.in)
	again, same := Next(next, w.in)
	require.True(w.t, again.Equal(next), "asked again: %+v is not %+v", again, next)
	require.Equal(w.t, want, same)
	var status v1alpha1.VirtualServerStatus
	next.Into(&status)
	w.s, w.want = FromStatus(&status), want
	return w
}

// obey has a node do what was decided last.
func (w *world) obey(n *Node) {
	n.Decision, n.Serving, n.Staged, n.Weight = w.s.Decision, w.s.Active, w.s.Candidate, w.s.Weight
	if colour, _ := w.s.Probing(w.in.Spec); colour != "" {
		n.Probe = &v1alpha1.ProbeReport{Colour: colour, Passed: int32(w.in.Colours[colour].Ready)}
	} else {
		n.Probe = nil
	}
}

// follow has all nodes do what was decided, until nothing is decided any more.
func (w *world) follow() *world {
	for range 10 {
		before := w.s
		for i := range w.in.Nodes {
			w.obey(&w.in.Nodes[i])
		}
		if w.ask(); w.s.Equal(before) {
			break
		}
	}
	return w
}

// later lets time go by.
func (w *world) later(d time.Duration) *world {
	w.in.Now = w.in.Now.Add(d)
	return w.ask()
}

// at checks where it stands.
func (w *world) at(phase v1alpha1.Phase, active, candidate, reason string) *world {
	if h, ok := w.t.(*testing.T); ok {
		h.Helper()
	}
	require.Equal(w.t, []string{string(phase), active, candidate, reason}, []string{string(w.s.Phase), w.s.Active, w.s.Candidate, w.s.Reason}, "%s", w.s.Message)
	if w.s.Reason != "" {
		require.NotEmpty(w.t, w.s.Message)
	}
	return w
}

// outcomes checks the history, newest first.
func (w *world) outcomes(want ...string) *world {
	if h, ok := w.t.(*testing.T); ok {
		h.Helper()
	}
	var got []string
	for _, r := range w.s.History {
		got = append(got, fmt.Sprintf("%s→%s %s %s", r.From, r.To, r.Outcome, r.Reason))
	}
	require.Equal(w.t, want, got)
	return w
}

// answer gives the answer to the call that is wanted.
func (w *world) answer(err string) *world {
	require.NotNil(w.t, w.want.Call)
	w.in.Answers = []Answer{{Call: *w.want.Call, At: w.in.Now, Err: err}}
	return w.ask()
}
