package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// colours hang below a VirtualServer, and nodes below each.
func (p painter) colours(root *limb, of *picture) {
	all := coloursOf(of)
	width := 0
	for _, c := range all {
		width = max(width, visible(shorten(nameOf(c.Name), maxName)))
	}
	for _, c := range all {
		ready := fmt.Sprintf("%d of %d ready", c.Ready, c.Endpoints)
		if c.Endpoints == 0 {
			ready = "no endpoint"
		}
		text := fmt.Sprintf("%s  %s", pad(p.paint(bold, shorten(nameOf(c.Name), maxName)), width), pad(ready, len("10 of 10 ready")))
		if role := p.role(of, c.Name); role != "" {
			text += "  " + role
		}
		p.nodesBelow(root.add("%s", text), of, c.Name)
	}
	if c := safeToRetire(&of.status); c != nil {
		root.add("%s %s is safe to retire: %s", p.paint(green, "✓"), shorten(of.status.Retiring, maxName), c.Message)
	}
}

func nameOf(colour string) string {
	if colour == "" {
		return "(no colour)" // of real servers whose colour was never known
	}
	return colour
}

// coloursOf are those with endpoints, and those that are spoken of all the same: sorted.
func coloursOf(of *picture) []v1alpha1.ColourStatus {
	s := &of.status
	all := slices.Clone(s.Colours)
	add := func(name string) {
		if !slices.ContainsFunc(all, func(c v1alpha1.ColourStatus) bool { return c.Name == name }) {
			all = append(all, v1alpha1.ColourStatus{Name: name})
		}
	}
	for _, name := range []string{s.Active, s.Candidate, of.declared} {
		if name != "" {
			add(name)
		}
	}
	for _, n := range of.nodes {
		for name := range n.drains {
			add(name)
		}
	}
	slices.SortFunc(all, func(a, b v1alpha1.ColourStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// role is what a colour is now: a colour can be several things.
func (p painter) role(of *picture, colour string) string {
	s := &of.status
	var roles []string
	if colour == s.Active && colour != "" {
		share := ""
		if s.Weight > 0 {
			share = fmt.Sprintf(" %d %%", 100-s.Weight)
		}
		roles = append(roles, p.paint(green, "active"+share))
	}
	if colour == s.Candidate && colour != "" {
		share := ""
		if s.Weight > 0 {
			share = fmt.Sprintf(" %d %%", s.Weight)
		}
		roles = append(roles, p.paint(yellow, "candidate"+share))
	} else if colour == of.declared && colour != s.Active {
		roles = append(roles, p.paint(yellow, "declared"))
	}
	if colour == s.Previous && colour != "" {
		roles = append(roles, "previous")
	}
	if colour == s.Retiring && colour != s.Active && colour != "" && safeToRetire(s) == nil {
		roles = append(roles, "retiring")
	}
	if of.spec != nil && of.spec.Preview != nil && of.spec.Preview.Colour == colour {
		role := "preview"
		if port := of.spec.Preview.NodePort; port != nil {
			role = fmt.Sprintf("preview at %d", *port)
		}
		roles = append(roles, role)
	}
	if len(roles) == 0 {
		roles = append(roles, map[bool]string{true: "idle", false: "gone"}[slices.ContainsFunc(s.Colours, func(c v1alpha1.ColourStatus) bool { return c.Name == colour })])
	}
	var left int64
	nodes := 0
	for _, n := range of.nodes {
		if d, drains := n.drains[colour]; drains {
			left, nodes = left+d.connections, nodes+1
		}
	}
	if nodes > 0 {
		roles = append(roles, "drains "+plural(left, "connection", "connections"))
	}
	return strings.Join(roles, ", ")
}

// nodesBelow are the nodes that have something to say of a colour. Of many, those that say the same do it together.
func (p painter) nodesBelow(l *limb, of *picture, colour string) {
	type said struct{ name, text string }
	var each []said
	alike := map[string]int{}
	width := 0
	for i := range of.nodes {
		n := &of.nodes[i]
		text, good := p.node(of, n, colour)
		if text == "" {
			continue
		}
		if !good {
			text = p.paint(yellow, "!") + " " + text
		}
		each, width = append(each, said{shorten(n.name, maxName), text}), max(width, visible(shorten(n.name, maxName)))
		alike[text]++
	}
	for _, s := range each {
		switch n := alike[s.text]; {
		case len(each) > maxNodes && n > 2:
			l.add("%s  %s", pad(plural(n, "node", "nodes"), width), s.text)
			alike[s.text] = 0
		case n > 0:
			l.add("%s  %s", pad(s.name, width), s.text)
		}
	}
}

// node is what a node has of a colour; "" when nothing. good is whether it is as it should be.
func (p painter) node(of *picture, n *nodePicture, colour string) (text string, good bool) {
	s, e := &of.status, n.entry
	var parts []string
	good = true
	wrong := func(text string) { parts, good = append(parts, text), false }
	why := func() string { // in the node's own words, unless that is what the tree says anyway
		if e.Reason == "" || e.Message != "" && strings.Contains(s.Message, e.Message) {
			return ""
		}
		return ": " + e.Reason
	}
	switch {
	case colour == "" || colour != s.Active && colour != s.Candidate:
	case n.dead && colour == s.Active && e != nil && e.Verified && e.Active != "":
		wrong("not alive; it served " + shorten(e.Active, maxName))
	case n.dead:
		wrong("not alive")
	case e == nil:
		wrong("has reported nothing yet")
	case e.Decision < s.Decision:
		wrong("has not acted on the decision yet" + why())
	case colour == s.Candidate && e.Staged != colour:
		wrong("is not staged yet" + why())
	case colour == s.Candidate && e.Weight != s.Weight:
		wrong(fmt.Sprintf("gives %d %%, not %d %% yet%s", e.Weight, s.Weight, why()))
	case colour == s.Candidate && s.Weight > 0:
		parts = append(parts, fmt.Sprintf("gives %d %%", s.Weight))
	case colour == s.Candidate:
		parts = append(parts, "staged")
	case e.Verified && e.Active != "" && e.Active != colour:
		wrong("serves " + shorten(e.Active, maxName) + why())
	case !e.Verified:
		wrong("was not read back to serve it yet" + why())
	default:
		parts = append(parts, "serves, "+plural(e.RealServers, "real server", "real servers"))
	}
	if e != nil && !n.dead {
		if probe := e.Probe; probe != nil && probe.Colour == colour {
			text := fmt.Sprintf("probe passes %d of %d", probe.Passed, probe.Passed+probe.Failed)
			if probe.Failed > 0 {
				wrong(text + ": " + strings.Join(probe.Failures, "; "))
			} else {
				parts = append(parts, text)
			}
		}
		for _, sign := range e.Signs {
			if sign.Colour == colour {
				wrong(sign.Message)
			}
		}
	}
	if d, drains := n.drains[colour]; drains {
		parts = append(parts, p.drain(d))
	}
	return strings.Join(parts, ", "), good
}

func (p painter) drain(d drainPicture) string {
	text := "drains, " + plural(d.connections, "connection", "connections") + " left"
	if d.open >= 0 && d.open < d.connections {
		text += fmt.Sprintf(" (%d open, the rest closing)", d.open)
	}
	text += " on " + plural(d.reals, "real server", "real servers")
	if !d.deadline.IsZero() {
		text += ", cut " + p.at(d.deadline)
	}
	return text
}
