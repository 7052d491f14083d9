package sync

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/probe"
	"github.com/pointsman/pointsman/rollout"
)

// Which colour each VirtualServer's new connections go to. In a cluster that is decided elsewhere, and followed;
// with manifests this node is all there is, and the machine runs here.

type (
	// Prober tests endpoints again and again.
	Prober interface {
		Set(map[string]probe.Target)
		Result(key string) (probe.Result, bool)
		Changed() <-chan struct{}
	}
	// Calls are those that rollouts want of the world outside.
	Calls interface {
		Want(types.NamespacedName, rollout.Wants, *v1alpha1.VirtualServerSpec, *v1alpha1.VirtualServerStatus) time.Time
		Answers(types.NamespacedName) ([]rollout.Answer, rollout.Query)
	}
)

// olderFor is how long a decision before the one that this node acted on is taken for one that a watch was late
// with. After that it is what there is: the API server's store was put back.
const olderFor = time.Minute

// rollouts is what the loop knows of rollouts beside the ledger.
type rollouts struct {
	dueAt  time.Time                          // of the next pass for their sake; zero: none
	moving map[types.NamespacedName]bool      // those that a report or the time may move
	older  map[types.NamespacedName]time.Time // since when an older decision is shown
}

func (u *rollouts) due(at time.Time) {
	if !at.IsZero() && (u.dueAt.IsZero() || at.Before(u.dueAt)) {
		u.dueAt = at
	}
}

// decide is the state of a server's rollout from now on.
func (r *Reconciler) decide(s *endpoints.Server, before rollout.State, now time.Time) rollout.State {
	if s.UID != "" {
		return r.followed(s, before, now)
	}
	after, want := rollout.Next(before, r.rolloutInput(s, now))
	due, moves := want.Due, want != (rollout.Wants{}) || after.Phase != v1alpha1.PhaseSteady
	if r.Calls != nil && (moves || r.rollouts.moving[s.Key]) {
		var status v1alpha1.VirtualServerStatus
		after.Into(&status)
		status.Colours = Colours(s)
		if next := r.Calls.Want(s.Key, want, s.Spec, &status); due.IsZero() || !next.IsZero() && next.Before(due) {
			due = next
		}
	}
	r.rollouts.due(due)
	if r.rollouts.moving == nil {
		r.rollouts.moving = map[types.NamespacedName]bool{}
	}
	if moves {
		r.rollouts.moving[s.Key] = true
	} else {
		delete(r.rollouts.moving, s.Key)
	}
	return after
}

// followed is what was decided in the cluster.
func (r *Reconciler) followed(s *endpoints.Server, before rollout.State, now time.Time) rollout.State {
	d, of := s.Decision, string(s.UID)
	older := &r.rollouts.older
	if d == nil {
		if before.Active != "" {
			return before
		}
		return rollout.State{Active: s.Spec.Active, Phase: v1alpha1.PhaseSteady, Of: of}
	}
	if before.Of == of && before.Active != "" && d.Number < before.Decision {
		if *older == nil {
			*older = map[types.NamespacedName]time.Time{}
		}
		since, known := (*older)[s.Key]
		if !known {
			since = now
			(*older)[s.Key] = since
		}
		if until := since.Add(olderFor); now.Before(until) {
			r.rollouts.due(until)
			return before
		}
	}
	delete(*older, s.Key)
	return rollout.State{
		Active: d.Active, Previous: d.Previous, Retiring: d.Retiring, Candidate: d.Candidate, Weight: d.Weight,
		Decision: d.Number, Phase: d.Phase, Rollback: d.Rollback, Of: of,
	}
}

// rolloutInput is what the machine is told: this node is the only one.
func (r *Reconciler) rolloutInput(s *endpoints.Server, now time.Time) rollout.Input {
	in := rollout.Input{Now: now, Spec: s.Spec, Colours: Counts(s), Nodes: []rollout.Node{{Name: r.NodeName}}}
	if r.Calls != nil {
		in.Answers, in.Query = r.Calls.Answers(s.Key)
	}
	o := r.status.byKey[s.Key]
	if o == nil {
		return in
	}
	self, of := &in.Nodes[0], o.status
	self.Decision, self.Staged, self.Weight, self.Probe, self.Signs = of.Decision, of.Staged, of.Weight, r.probed(s.Key, o.state, s.Spec), of.Signs
	if of.Verified {
		self.Serving = of.Status.Active
	}
	if c := meta.FindStatusCondition(of.Status.Conditions, v1alpha1.ConditionAccepted); c != nil && c.Status == metav1.ConditionFalse {
		self.Trouble = "says " + c.Reason + ": " + c.Message
	}
	return in
}

// moves says when the next pass is due for the rollouts' sake, now that a status was made: at once when what was
// read back moves one.
func (r *Reconciler) moves(now time.Time) {
	for key := range r.rollouts.moving {
		s := r.inForce[key]
		if s == nil || s.UID != "" {
			delete(r.rollouts.moving, key)
			continue
		}
		before := r.ledger.Rollouts[key]
		if after, _ := rollout.Next(before, r.rolloutInput(s, now)); !after.Equal(before) {
			r.rollouts.dueAt = now
			return
		}
	}
}

// probe has tested what rollouts ask for.
func (r *Reconciler) probe() {
	if r.Prober == nil {
		return
	}
	want := map[string]probe.Target{}
	for key, s := range r.inForce {
		if colour, how := r.ledger.Rollouts[key].Probing(s.Spec); colour != "" {
			want[key.String()+" "+colour] = probe.Target{Probe: how, Endpoints: probed(s, colour, how)}
		}
	}
	r.Prober.Set(want)
}

// probed are the ready endpoints of a colour that a probe is for. A probe that names a port asks each address once.
func probed(s *endpoints.Server, colour string, how *v1alpha1.Probe) []netip.AddrPort {
	own := ownPort(how)
	var out []netip.AddrPort
	for i := range s.Ports {
		if s.Ports[i].Protocol != corev1.ProtocolTCP && own == nil {
			continue
		}
		for _, e := range s.Ports[i].Endpoints {
			if e.Colour != colour || !e.Ready {
				continue
			}
			port := e.Port
			if own != nil {
				port = uint16(*own)
			}
			out = append(out, netip.AddrPortFrom(e.Addr, port))
		}
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	return slices.Compact(out)
}

// ownPort is the port that a probe names, nil when it names none.
func ownPort(how *v1alpha1.Probe) *int32 {
	switch {
	case how.TCP != nil:
		return how.TCP.Port
	case how.HTTP != nil:
		return how.HTTP.Port
	case how.TLS != nil:
		return how.TLS.Port
	case how.GRPC != nil:
		return how.GRPC.Port
	}
	return nil
}

// probed is how what a rollout asks for fares from here; nil when it asks for nothing, or not all was tested yet.
func (r *Reconciler) probed(key types.NamespacedName, state rollout.State, spec *v1alpha1.VirtualServerSpec) *v1alpha1.ProbeReport {
	colour, _ := state.Probing(spec)
	if r.Prober == nil || colour == "" {
		return nil
	}
	result, known := r.Prober.Result(key.String() + " " + colour)
	if !known || !result.Complete() {
		return nil
	}
	out := &v1alpha1.ProbeReport{Colour: colour, Passed: int32(result.Passed), Failed: int32(len(result.Failures))}
	for _, f := range result.Failures[:min(len(result.Failures), v1alpha1.MaxProbeFailures)] {
		out.Failures = append(out.Failures, f.Endpoint.String()+": "+f.Seen)
	}
	return out
}

// Counts are the endpoints of each colour as a rollout counts them: those that terminate are no longer its.
func Counts(s *endpoints.Server) map[string]rollout.Colour {
	ready, out := Ready(s), map[string]rollout.Colour{}
	for i := range s.Ports {
		for colour, n := range count(s.Ports[i].Endpoints, func(e *endpoints.Endpoint) bool { return e.Colour != "" && !e.Terminating }) {
			c := out[colour]
			c.All, c.Ready = max(c.All, n), ready[colour]
			out[colour] = c
		}
	}
	return out
}
