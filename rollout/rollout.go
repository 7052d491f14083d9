// Package rollout decides which colour of a virtual server gets new connections.
//
// It is a pure function of where the rollout stands, what is declared and what is ready: it reads no
// clock, writes nothing and knows no kernel. It does not make its decision so: package sync does.
// A caller may rely on it never to move a virtual server to a colour that could not serve.
package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// State is where the rollout of one virtual server stands. The zero value is before its first
// decision. It is kept on disk, so that a restarted daemon goes on from it.
type State struct {
	Active   string `json:"active"`             // the colour that gets new connections
	Previous string `json:"previous,omitempty"` // where a rollback goes; "" when there is no such colour
	// Candidate is the colour that is being staged or gets a share; "" when none is.
	Candidate string `json:"candidate,omitempty"`
	// Weight is the candidate's share of new connections in percent; 0: it is staged and gets none.
	Weight  int32          `json:"weight,omitempty"`
	Phase   v1alpha1.Phase `json:"phase"`
	Reason  string         `json:"reason,omitempty"`  // CamelCase, when Blocked
	Message string         `json:"message,omitempty"` // for a person, with the mend
}

// Next is the state after s, when the colour declared is asked for and ready counts, by colour, the
// endpoints that could serve every port of the virtual server.
func Next(s State, declared string, ready map[string]int) State {
	switch {
	case s.Active == "" || s.Active == declared:
		// The first decision follows the declaration whatever is ready: there is nothing to keep.
		return State{Active: declared, Previous: s.Previous, Phase: v1alpha1.PhaseSteady}
	case ready[declared] == 0:
		return State{
			Active: s.Active, Previous: s.Previous, Phase: v1alpha1.PhaseBlocked, Reason: "NoReadyEndpoint",
			Message: NoReadyEndpoint(declared, s.Active, ready),
		}
	}
	return State{Active: declared, Previous: s.Active, Phase: v1alpha1.PhaseSteady}
}

// NoReadyEndpoint says why colour cannot become active while active is, and what to do.
func NoReadyEndpoint(colour, active string, ready map[string]int) string {
	var others []string
	for c, n := range ready {
		if c != "" && n > 0 {
			others = append(others, c)
		}
	}
	slices.Sort(others)
	can := "no colour has one now"
	if len(others) > 0 {
		can = "ready now: " + strings.Join(others, ", ")
	}
	return fmt.Sprintf("colour %q has no ready endpoint on every port, so %q stays active; make its endpoints ready or declare another colour (%s)",
		colour, active, can)
}
