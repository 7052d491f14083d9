package rollout

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// staging waits until the gate holds.
func (m *machine) staging() {
	if m.Declaration != m.declaration { // another gate for the same colour
		m.Declaration, m.Deadline = m.declaration, m.Started.Add(m.Spec.Switch.Gate.Timeout.Duration)
	}
	forced := m.Spec.Switch.Force == m.Candidate
	reason, message := m.gate(forced)
	if m.Spec.Switch.Paused {
		m.pause(message)
		return
	}
	m.unpause()
	if reason == "" && !forced {
		reason, message = m.before()
	}
	switch {
	case reason == "" && forced:
		m.commit(m.Candidate, false)
	case reason == "":
		m.Phase = v1alpha1.PhaseStepping
		m.take(1)
	case !m.Now.Before(m.Deadline):
		m.block(reason, message)
	default:
		m.Reason, m.Message = reason, message
		m.due(m.Deadline)
	}
}

// pause holds the switch where it is. Neither does the gate's time run.
func (m *machine) pause(also string) {
	m.Reason, m.Message = ReasonPaused, "spec.switch.paused holds the switch here; `pointsman resume` lets it go on"
	if also != "" {
		m.Message += "; besides: " + also
	}
	m.Deadline, m.Since = time.Time{}, time.Time{}
}

func (m *machine) unpause() {
	if m.Reason == ReasonPaused {
		m.Reason, m.Message = "", ""
	}
	if m.Deadline.IsZero() {
		m.Deadline = m.Now.Add(m.Spec.Switch.Gate.Timeout.Duration)
	}
}

// gate is what of the gate does not hold, the hook before left out; "" when all does.
func (m *machine) gate(forced bool) (reason, message string) {
	ready := m.Colours[m.Candidate]
	switch need := Needed(m.Spec.Switch.Gate.MinReady, ready.All); {
	case ready.Ready == 0:
		return ReasonNoReadyEndpoint, NoReadyEndpoint(m.Candidate, m.Active, m.Colours)
	case forced:
		return "", ""
	case ready.Ready < need:
		return ReasonNotReady, fmt.Sprintf("%d of %d endpoints of %q are ready on every port, and spec.switch.gate.minReady asks for %d", ready.Ready, ready.All, m.Candidate, need)
	}
	if reason, message = m.await(ReasonNodesNotStaged, func(n *Node) string {
		if n.Staged != m.Candidate {
			return "has not staged " + m.Candidate + " yet"
		}
		return ""
	}); reason != "" || m.Spec.Switch.Gate.Probe == nil {
		return reason, message
	}
	return m.await(ReasonProbeFailed, func(n *Node) string { return m.probe(n, m.Candidate, m.Spec.Switch.Gate.MinReady, true) })
}

// probe is what a node's probes lack; pending ones too, when those are to count.
func (m *machine) probe(n *Node, colour string, min *intstr.IntOrString, pending bool) string {
	p := n.Probe
	if p == nil || p.Colour != colour {
		if pending {
			return "has not probed " + colour + " yet"
		}
		return ""
	}
	all := int(p.Passed + p.Failed)
	if need := Needed(min, all); all > 0 && int(p.Passed) < need {
		text := fmt.Sprintf("passes %d of %d endpoints of %s, and %d are asked for", p.Passed, all, colour, need)
		if len(p.Failures) > 0 {
			text += " (" + strings.Join(p.Failures, "; ") + ")"
		}
		return text
	}
	return ""
}

// await is why too few nodes are where they should be, by what each lacks; "" when there are enough.
func (m *machine) await(reason string, lacks func(*Node) string) (string, string) {
	if len(m.Nodes) == 0 {
		return ReasonNoLiveNode, "no node's daemon is alive"
	}
	var waiting []string
	for i := range m.Nodes {
		n := &m.Nodes[i]
		lack := ""
		switch {
		case n.Decision < m.Decision && n.Trouble != "":
			lack = n.Trouble
		case n.Decision < m.Decision:
			lack = "has not acted on the decision yet"
		default:
			if lack = lacks(n); lack != "" && n.Trouble != "" {
				lack += ": " + n.Trouble
			}
		}
		if lack != "" {
			waiting = append(waiting, n.Name+" "+lack)
		}
	}
	through := len(m.Nodes) - len(waiting)
	if through >= m.nodesNeeded() {
		return "", ""
	}
	return reason, fmt.Sprintf("waiting for %d of %d nodes: %s", len(waiting), len(m.Nodes), Some(waiting, maxNamed))
}

// nodesNeeded is how many live nodes spec.switch.gate.nodes asks for.
func (m *machine) nodesNeeded() int {
	return share(m.Spec.Switch.Gate.Nodes, len(m.Nodes))
}

// Needed is a minReady as a number of endpoints, at least one.
func Needed(min *intstr.IntOrString, all int) int {
	if min == nil {
		return 1
	}
	if min.Type == intstr.Int {
		return int(min.IntVal)
	}
	return max(1, share(min.StrVal, all))
}

// share is a percentage of a number, rounded up; what is no percentage is all of it.
func share(percentage string, of int) int {
	digits, ok := strings.CutSuffix(percentage, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return of
	}
	return (of*n + 99) / 100
}

// maxNamed is how many of those that are waited for a message names.
const maxNamed = 5

// Some lists a few texts and says how many more there are.
func Some(all []string, most int) string {
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}
