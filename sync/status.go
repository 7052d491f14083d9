package sync

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

// statusFile is the name of the status in the state directory.
const statusFile = "status.json"

// Status is what a node's daemon saw at its last pass: all that it says of virtual servers is what
// was read back from the kernel. It is written only when it changes.
type Status struct {
	Node string `json:"node"`
	// Error is why the last pass failed; "" when it did not.
	Error string `json:"error,omitempty"`
	// Rejected counts the sources that were found bad since the daemon started; Errors are those
	// that still are.
	Rejected uint64                  `json:"rejected"`
	Errors   []endpoints.SourceError `json:"errors,omitempty"`
	Servers  []*ServerStatus         `json:"virtualServers"`
}

// Healthy is whether nothing is wrong with the pass itself or with a source.
func (s *Status) Healthy() bool { return s.Error == "" && len(s.Errors) == 0 }

// Server is the status of a virtual server, nil when there is none.
func (s *Status) Server(key types.NamespacedName) *ServerStatus {
	for _, of := range s.Servers {
		if of.Namespace == key.Namespace && of.Name == key.Name {
			return of
		}
	}
	return nil
}

// ServerStatus is what the node has of one VirtualServer.
type ServerStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Digest identifies the declaration that this answers (endpoints.Server.Digest).
	Digest string `json:"digest"`
	// Generation is the metadata.generation of that declaration; 0 for a manifest.
	Generation int64  `json:"generation,omitempty"`
	Declared   string `json:"declared"` // spec.active
	// Verified: the kernel was read back and holds Active, and Active only, in every virtual server.
	Verified bool `json:"verified"`
	// Staged is the colour that the kernel was read back to hold ready beside the active one; "" when none is.
	Staged string `json:"staged,omitempty"`
	// Weight is the candidate's share of new connections that was read back, in percent.
	Weight int32 `json:"weight,omitempty"`
	// Steering is how the virtual servers are keyed, "Address" or "Mark", and SteeringReason why, where that
	// needs a word.
	Steering       string `json:"steering,omitempty"`
	SteeringReason string `json:"steeringReason,omitempty"`
	// Decision is the one that this answers; see [rollout.State].
	Decision int64 `json:"decision,omitempty"`
	// Probe is how what is asked about fares from this node; nil when nothing is, or not all was tested yet.
	Probe *v1alpha1.ProbeReport `json:"probe,omitempty"`
	// Signs in the kernel's counters that a colour does not serve.
	Signs []v1alpha1.Sign `json:"signs,omitempty"`
	// Virtual are the virtual servers in the kernel.
	Virtual  []VirtualStatus              `json:"virtual,omitempty"`
	Draining []DrainStatus                `json:"draining,omitempty"`
	Status   v1alpha1.VirtualServerStatus `json:"status"`
}

// VirtualStatus is one virtual server in the kernel.
type VirtualStatus struct {
	Key       string `json:"key"`
	Scheduler string `json:"scheduler"`
	Serving   int    `json:"serving"` // real servers with weight
	// Steered are the addresses whose packets a rule puts on its mark; none for one keyed by an address.
	Steered []string `json:"steered,omitempty"`
}

// DrainStatus is a real server that gets no new connections and still has some.
type DrainStatus struct {
	Virtual  string    `json:"virtual"`
	Real     string    `json:"real"`
	Colour   string    `json:"colour,omitempty"`
	Active   uint32    `json:"active"`
	Inactive uint32    `json:"inactive"`
	Since    time.Time `json:"since"`
	// Deadline is when its connections are cut; nil when they never are.
	Deadline *time.Time `json:"deadline,omitempty"`
}

// LoadStatus reads the status of a state directory; errors.Is(err, fs.ErrNotExist) where no daemon
// has written one yet.
func LoadStatus(stateDir string) (*Status, error) {
	text, err := os.ReadFile(filepath.Join(stateDir, statusFile))
	if err != nil {
		return nil, fmt.Errorf("reading the status: %w", err)
	}
	var s Status
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("reading the status %s: %w", filepath.Join(stateDir, statusFile), err)
	}
	return &s, nil
}

// observeServer makes the status of one server of what it is made of.
func (r *Reconciler) observeServer(of *observed, services []*ipvs.ServiceInfo, now metav1.Time) *ServerStatus {
	s, state := of.server, of.state
	out := &ServerStatus{
		Namespace: s.Key.Namespace, Name: s.Key.Name, Digest: s.Digest, Generation: s.Generation, Declared: s.Spec.Active,
	}
	state.Into(&out.Status)
	out.Decision, out.Probe, out.Signs = state.Decision, of.probe, of.signs
	out.Status.Colours = Colours(s)
	out.Status.Nodes = v1alpha1.NodesStatus{Total: 1}
	if before := of.wasStatus; before != nil {
		out.Status.Conditions = slices.Clone(before.Status.Conditions)
	}
	r.observeKernel(out, services)
	out.Verified = s.Refused == nil && !of.failed && of.trouble == "" && !of.pending
	out.Steering, out.SteeringReason, out.Staged = string(v1alpha1.SteeringAddress), of.keyed.why, of.keyed.staged
	if of.keyed.marked {
		out.Steering = string(v1alpha1.SteeringMark)
	}
	if out.Verified {
		out.Weight = of.state.Weight
	}
	if out.Verified {
		out.Status.Nodes.Switched = 1
	}
	if out.Verified && out.Staged == state.Candidate {
		out.Status.Nodes.Staged = 1
	}
	r.setConditions(out, of, now)
	return out
}

// setConditions fills in the conditions, keeping the transition times of those that stay.
func (r *Reconciler) setConditions(out *ServerStatus, of *observed, now metav1.Time) {
	s, blocked, message := of.server, "", of.state.Message
	if of.state.Active != s.Spec.Active && s.UID == "" { // in a cluster the coordinator says so
		blocked = cmp.Or(of.state.Reason, string(of.state.Phase))
		message = cmp.Or(message, of.state.Active+" is active, and "+s.Spec.Active+" is declared")
	}
	set := func(kind string, ok bool, reason, message string) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: now}
		if ok {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&out.Status.Conditions, c)
	}
	switch {
	case s.Refused != nil:
		set(v1alpha1.ConditionAccepted, false, s.Refused.Reason, s.Refused.Message)
	case of.trouble != "":
		set(v1alpha1.ConditionAccepted, false, "AddressTaken", of.trouble)
	case of.undone != "":
		set(v1alpha1.ConditionAccepted, false, reasonUndone, of.undone)
	default:
		set(v1alpha1.ConditionAccepted, true, "Accepted", "")
	}
	switch {
	case blocked != "":
		set(v1alpha1.ConditionSwitched, false, blocked, message)
	case out.Verified:
		set(v1alpha1.ConditionSwitched, true, "Verified", "the kernel was read back and sends new connections to "+out.Status.Active+" only")
	default:
		set(v1alpha1.ConditionSwitched, false, "NotVerified", "the kernel does not hold what is declared yet")
	}
	if previous := out.Status.Retiring; previous != "" {
		left := 0
		for _, d := range out.Draining {
			if d.Colour == previous {
				left++
			}
		}
		drained := out.Verified && left == 0
		reason, message := "Drained", previous+" has no connection left"
		if !drained {
			reason, message = "Draining", fmt.Sprintf("%d real servers of %s still have connections", left, previous)
		}
		set(v1alpha1.ConditionSafeToRetire, drained, reason, message)
	} else {
		meta.RemoveStatusCondition(&out.Status.Conditions, v1alpha1.ConditionSafeToRetire)
	}
	if s.Spec.Preview != nil {
		ok, reason, message := PreviewReady(s.Spec.Preview, out.Status.Colours)
		set(v1alpha1.ConditionPreviewReady, ok, reason, message)
	} else {
		meta.RemoveStatusCondition(&out.Status.Conditions, v1alpha1.ConditionPreviewReady)
	}
}

// PreviewReady is what the condition of that name says: whether testers find somebody.
func PreviewReady(p *v1alpha1.Preview, colours []v1alpha1.ColourStatus) (ok bool, reason, message string) {
	var ways []string
	if p.NodePort != nil {
		ways = append(ways, fmt.Sprintf("on node port %d", *p.NodePort))
	}
	if len(p.Sources) > 0 {
		ways = append(ways, "from "+strings.Join(p.Sources, ", ")+" on the production addresses")
	}
	way := strings.Join(ways, " and ")
	for _, c := range colours {
		if c.Name == p.Colour && c.Ready > 0 {
			return true, "Ready", fmt.Sprintf("%s, with %d ready endpoints, is what is reached %s", c.Name, c.Ready, way)
		}
	}
	return false, "NoReadyEndpoint", fmt.Sprintf("%s is previewed %s and has no ready endpoint on every port, so who comes that way is refused; make its endpoints ready, or change spec.preview.colour", p.Colour, way)
}

// observeKernel fills in what the kernel holds of a virtual server.
func (r *Reconciler) observeKernel(out *ServerStatus, services []*ipvs.ServiceInfo) {
	for _, s := range services {
		v := VirtualStatus{Key: s.Key.String(), Scheduler: s.Scheduler}
		o := r.ledger.Owned[s.Key]
		for i := range s.Reals {
			real := &s.Reals[i]
			if real.Weight > 0 {
				v.Serving++
			}
			d, draining := o.Draining[real.RealKey]
			if !draining {
				continue
			}
			ds := DrainStatus{
				Virtual: v.Key, Real: real.RealKey.String(), Colour: d.Colour,
				Active: real.Active, Inactive: real.Inactive, Since: d.Since,
			}
			if o.Drain.Cut {
				at := d.Since.Add(o.Drain.Timeout)
				ds.Deadline = &at
			}
			out.Draining = append(out.Draining, ds)
		}
		// A lane counts only where it is what serves; elsewhere it is staged, or drains.
		if c := r.steering.of[o.Owner]; s.Key.Mark == 0 || c != nil && c.away && c.lanes[s.Key] != nil {
			if s.Key.Mark != 0 {
				v.Steered = c.steered(s.Key)
			}
			out.Virtual = append(out.Virtual, v)
		}
	}
	slices.SortFunc(out.Virtual, func(a, b VirtualStatus) int { return strings.Compare(a.Key, b.Key) })
}

// Colours counts the endpoints of each colour that serve every port; see [Ready].
func Colours(s *endpoints.Server) []v1alpha1.ColourStatus {
	ready, all := Ready(s), map[string]int{}
	for i := range s.Ports {
		n := count(s.Ports[i].Endpoints, func(*endpoints.Endpoint) bool { return true })
		for c := range n {
			all[c] = max(all[c], n[c])
		}
	}
	var out []v1alpha1.ColourStatus
	for c, n := range all {
		if c != "" {
			out = append(out, v1alpha1.ColourStatus{Name: c, Endpoints: int32(n), Ready: int32(ready[c])})
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.ColourStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// NoStatus says whether LoadStatus failed for want of a status.
func NoStatus(err error) bool { return errors.Is(err, fs.ErrNotExist) }
