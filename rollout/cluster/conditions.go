package cluster

import (
	"cmp"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/sync"
)

// Reasons of conditions that are not a node's.
const (
	reasonAccepted        = "Accepted"
	reasonPending         = "Pending" // no node has told yet
	reasonNotAccepted     = "NotAccepted"
	reasonNoLiveNode      = "NoLiveNode"
	reasonNodesWaiting    = "NodesWaiting"
	reasonStaged          = "Staged"
	reasonVerified        = "Verified"
	reasonNodeError       = "NodeError"
	reasonNothingServed   = "NothingServed"
	reasonNoReadyEndpoint = "NoReadyEndpoint"
	reasonReady           = "Ready"
	reasonDraining        = "Draining"
	reasonDrained         = "Drained"
	reasonNodeNotAlive    = "NodeNotAlive"
)

// maxNamed is how many nodes a message names; see [rollout.Some].
const maxNamed = 3

// maxMessage bounds a message: an API server takes eight times as much.
const maxMessage = v1alpha1.MaxReportMessage

func (a *aggregation) set(kind string, status metav1.ConditionStatus, reason, format string, args ...any) {
	meta.SetStatusCondition(&a.out.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: clip(fmt.Sprintf(format, args...), maxMessage),
		ObservedGeneration: a.vs.Generation, LastTransitionTime: a.now,
	})
}

func (a *aggregation) find(kind string) *metav1.Condition {
	return meta.FindStatusCondition(a.out.Conditions, kind)
}

// nobody is the status while no node's daemon lives: the kernels go on as they were.
func (a *aggregation) nobody() {
	message := "no node's daemon is alive, so nothing is known since; the nodes' kernels go on as they were" + a.deadNames()
	kinds := []string{v1alpha1.ConditionStaged, v1alpha1.ConditionSwitched, v1alpha1.ConditionHealthy}
	if a.find(v1alpha1.ConditionAccepted) == nil {
		kinds = append([]string{v1alpha1.ConditionAccepted}, kinds...)
	}
	if a.out.Retiring != "" {
		kinds = append(kinds, v1alpha1.ConditionSafeToRetire)
	}
	for _, kind := range kinds {
		a.set(kind, metav1.ConditionUnknown, reasonNoLiveNode, "%s", message)
	}
}

func (a *aggregation) accepted() {
	const kind = v1alpha1.ConditionAccepted
	switch refused := a.refusal(); {
	case len(a.refused) > 0:
		a.set(kind, metav1.ConditionFalse, a.refused[0].reason, "%s", a.told(a.refused))
	case a.judged:
		a.set(kind, metav1.ConditionTrue, reasonAccepted, "")
	case refused != nil:
		a.set(kind, metav1.ConditionFalse, reason(refused.Reason), "%s", refused.Message)
	case a.find(kind) == nil:
		a.set(kind, metav1.ConditionUnknown, reasonPending, "no node has acted on it yet")
	}
	// Else it stays as it is, with the generation that it was said of.
}

func (a *aggregation) isAccepted() bool {
	return !meta.IsStatusConditionFalse(a.out.Conditions, v1alpha1.ConditionAccepted)
}

// staged tells of the candidate: whether a switch that runs has it ready everywhere.
func (a *aggregation) staged() {
	const kind = v1alpha1.ConditionStaged
	switch {
	case a.out.Phase == v1alpha1.PhaseStepping:
		a.set(kind, metav1.ConditionTrue, reasonStaged, "%s is held ready, and gets %d %% of new connections", a.out.Candidate, a.out.Weight)
	case a.out.Active == a.vs.Spec.Active && a.out.Candidate == "":
		a.set(kind, metav1.ConditionTrue, reasonStaged, "no switch is under way")
	default:
		reason, why := a.phase()
		a.set(kind, metav1.ConditionFalse, reason, "%s: %s", a.vs.Spec.Active, why)
	}
}

// switched is True when every live node was read back to hold the declaration as it is.
func (a *aggregation) switched() {
	const kind = v1alpha1.ConditionSwitched
	switch {
	case a.out.Active != a.vs.Spec.Active || a.out.Candidate != "":
		reason, why := a.phase()
		a.set(kind, metav1.ConditionFalse, reason, "%s%s", why, a.deadNames())
	case a.there == len(a.live):
		a.set(kind, metav1.ConditionTrue, reasonVerified, "every live node was read back to send new connections to %s only%s", a.out.Active, a.deadNames())
	default:
		reason, why := a.why()
		a.set(kind, metav1.ConditionFalse, reason, "%s%s", why, a.deadNames())
	}
}

// phase is why the declared colour is not the active one.
func (a *aggregation) phase() (reason, message string) {
	if !a.isAccepted() {
		return a.why()
	}
	reason, message = cmp.Or(a.out.Reason, string(a.out.Phase), reasonPending), a.out.Message
	if message == "" {
		message = fmt.Sprintf("%q is active, and the switch to %q is in phase %s", a.out.Active, cmp.Or(a.out.Candidate, a.vs.Spec.Active), cmp.Or(string(a.out.Phase), reasonPending))
	}
	return reason, message
}

// why some live node is not where it should be.
func (a *aggregation) why() (reason, message string) {
	if !a.isAccepted() {
		return reasonNotAccepted, "the declaration is not accepted; condition Accepted says why"
	}
	return reasonNodesWaiting, fmt.Sprintf("waiting for %d of %d nodes: %s", len(a.waiting), len(a.live), rollout.Some(a.waiting, maxNamed))
}

// lack is what a live node lacks of the declaration; "" when it is where it should be.
func (a *aggregation) lack(n *Node) string {
	e := n.Entry
	switch {
	case e == nil:
		return "has not reported it yet"
	case !a.current(n):
		return fmt.Sprintf("still acts on generation %d, not %d", e.Generation, a.vs.Generation)
	case e.Reason != "":
		return "says " + e.Reason
	case e.Decision < a.out.Decision:
		return "has not acted on the latest decision yet"
	case !e.Verified:
		return "has not read it back from its kernel yet"
	case e.Active != a.out.Active:
		return fmt.Sprintf("serves %s, not %s", e.Active, a.out.Active)
	}
	return ""
}

func (a *aggregation) healthy() {
	const kind = v1alpha1.ConditionHealthy
	var failed []string
	for i := range a.live {
		if n := &a.live[i]; n.Error != "" {
			failed = append(failed, fmt.Sprintf("%s (%s)", n.Name, clip(n.Error, maxMessage/8)))
		}
	}
	active, dead := a.out.Active, a.deadNames()
	known := a.server != nil && a.server.Refused == nil || a.out.Colours != nil
	switch {
	case !a.isAccepted():
		a.set(kind, metav1.ConditionFalse, reasonNotAccepted, "the declaration is not accepted; condition Accepted says why")
	case len(failed) > 0:
		a.set(kind, metav1.ConditionFalse, reasonNodeError, "the last pass failed on %d of %d nodes: %s%s", len(failed), len(a.live), rollout.Some(failed, maxNamed), dead)
	case active == "":
		a.set(kind, metav1.ConditionFalse, reasonNothingServed, "no colour is served by every live node yet%s", dead)
	case !known:
		a.set(kind, metav1.ConditionUnknown, reasonPending, "the coordinator has not counted its endpoints yet%s", dead)
	case len(a.out.Colours) == 0:
		a.set(kind, metav1.ConditionFalse, reasonNoReadyEndpoint,
			"no endpoint of any colour is seen, so clients are refused; an endpoint's Pod, or its EndpointSlice, needs the label %s, and a slice that is made by hand the label %s=%s too%s",
			a.colourLabel(), endpoints.ServiceProxyLabel, endpoints.ServiceProxyName, dead)
	case a.ready(active) == 0:
		a.set(kind, metav1.ConditionFalse, reasonNoReadyEndpoint,
			"%s is active and has no ready endpoint on every port, so clients are refused; make its endpoints ready, or set spec.active to a colour that has some%s", active, dead)
	default:
		a.set(kind, metav1.ConditionTrue, reasonReady, "%s has ready endpoints, and no live node failed%s", active, dead)
	}
}

// colourLabel is the one that is declared, or the default.
func (a *aggregation) colourLabel() string {
	declared := a.vs.DeepCopy()
	v1alpha1.Default(declared)
	return declared.Spec.ColourLabel
}

func (a *aggregation) ready(colour string) int32 {
	for _, c := range a.out.Colours {
		if c.Name == colour {
			return c.Ready
		}
	}
	return 0
}

// safeToRetire is about the colour that was active before. Counts are left to the reports: a status that told
// them would be written for every connection that ends.
func (a *aggregation) safeToRetire() {
	const kind = v1alpha1.ConditionSafeToRetire
	previous := a.out.Retiring
	if previous == "" || previous == a.out.Active {
		meta.RemoveStatusCondition(&a.out.Conditions, kind)
		return
	}
	var draining, unknown []string
	for i := range a.live {
		if n := &a.live[i]; drainsOf(n, previous) {
			draining = append(draining, n.Name)
		}
	}
	for i := range a.dead {
		if n := &a.dead[i]; serves(n) != a.out.Active || drainsOf(n, previous) {
			unknown = append(unknown, n.Name)
		}
	}
	switch {
	case previous == a.out.Candidate:
		a.set(kind, metav1.ConditionFalse, string(a.out.Phase), "a switch to %s is under way", previous)
	case a.out.Phase == v1alpha1.PhaseObserving:
		a.set(kind, metav1.ConditionFalse, string(a.out.Phase), "%s is where a rollback would go as long as %s is observed", previous, a.out.Active)
	case a.there < len(a.live):
		reason, why := a.why()
		a.set(kind, metav1.ConditionFalse, reason, "%s may be in use: %s", previous, why)
	case len(draining) > 0:
		a.set(kind, metav1.ConditionFalse, reasonDraining,
			"%s still has connections on %d of %d nodes: %s; wait for them to end (the nodes' NodeReports count them), or set spec.switch.drain.onTimeout: Cut",
			previous, len(draining), len(a.live), rollout.Some(draining, maxNamed))
	case len(unknown) > 0:
		a.set(kind, metav1.ConditionUnknown, reasonNodeNotAlive,
			"%s has drained on every live node, but the daemon does not run on %s, whose kernel may still use it; start it there, or delete the Node if it is gone",
			previous, rollout.Some(unknown, maxNamed))
	default:
		a.set(kind, metav1.ConditionTrue, reasonDrained, "%s has no connection left on any node; what runs it can be deleted%s", previous, a.deadNames())
	}
}

// previewReady is about the colour that is previewed, where one is.
func (a *aggregation) previewReady() {
	const kind = v1alpha1.ConditionPreviewReady
	switch p := a.vs.Spec.Preview; {
	case p == nil:
		meta.RemoveStatusCondition(&a.out.Conditions, kind)
	case !a.isAccepted():
		a.set(kind, metav1.ConditionFalse, reasonNotAccepted, "the declaration is not accepted; condition Accepted says why")
	default:
		status := metav1.ConditionFalse
		ok, reason, message := sync.PreviewReady(p, a.out.Colours)
		if ok {
			status = metav1.ConditionTrue
		}
		a.set(kind, status, reason, "%s", message)
	}
}

// drainsOf says whether a node reports connections to a colour that has to end.
func drainsOf(n *Node, colour string) bool {
	if n.Entry != nil {
		for _, d := range n.Entry.Draining {
			if d.Colour == colour {
				return true
			}
		}
	}
	return false
}

// told is what nodes said; one text that all say is said once.
func (a *aggregation) told(all []said) string {
	same := len(all) == len(a.live)
	var each []string
	for _, s := range all {
		same = same && s == said{s.node, all[0].reason, all[0].message}
		text := s.message
		if s.reason != all[0].reason {
			text = s.reason + ": " + text
		}
		each = append(each, fmt.Sprintf("on %s: %s", s.node, text))
	}
	if same {
		return all[0].message
	}
	if len(each) > maxNamed {
		each = append(each[:maxNamed], fmt.Sprintf("and on %d more nodes", len(all)-maxNamed))
	}
	return strings.Join(each, "; ")
}

func (a *aggregation) deadNames() string {
	if len(a.dead) == 0 {
		return ""
	}
	var names []string
	for i := range a.dead {
		names = append(names, a.dead[i].Name)
	}
	return "; not alive and not counted: " + rollout.Some(names, maxNamed)
}
