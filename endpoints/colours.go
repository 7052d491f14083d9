package endpoints

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// colourFunc is the colour of an endpoint of a slice, or "".
type colourFunc func(slice *EndpointSlice, e *SliceEndpoint) string

// colourOf takes the slice's own label first: its author meant the whole slice. Only then is the Pod
// asked, if there is anyone to ask.
func colourOf(label string, podColour PodColour) colourFunc {
	return func(slice *EndpointSlice, e *SliceEndpoint) string {
		if colour := slice.label(label); colour != "" {
			return colour
		}
		if pod, ok := podOf(slice, e); ok && podColour != nil {
			return podColour(pod, label)
		}
		return ""
	}
}

// podOf is the Pod that an endpoint names. A slice's endpoints are of its own namespace, whatever a
// hand-written reference says.
func podOf(slice *EndpointSlice, e *SliceEndpoint) (types.NamespacedName, bool) {
	return types.NamespacedName{Namespace: slice.Namespace, Name: e.Pod}, e.Pod != ""
}

// found is an endpoint and where it was found.
type found struct {
	Endpoint
	slice int // position in the slices, which are in the order of their names
}

// portEndpoints are the endpoints behind one port. An address and port found more than once is kept
// once: with a colour before without one, then ready before not ready. Under two colours the one of
// the slice whose name sorts first is kept and the other reported, since to serve both would mix
// colours and to serve neither could leave the active colour empty.
func portEndpoints(of []EndpointSlice, name string, protocol corev1.Protocol, colour colourFunc, server types.NamespacedName) ([]Endpoint, []SourceError) {
	all := collect(of, name, protocol, colour)
	slices.SortFunc(all, func(a, b found) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return a.slice - b.slice
	})
	out := make([]Endpoint, 0, len(all))
	conflicts := newConflicts()
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].Addr == all[i].Addr && all[j].Port == all[i].Port {
			j++
		}
		if j == i+1 {
			out = append(out, all[i].Endpoint)
		} else {
			out = append(out, merge(all[i:j], conflicts))
		}
		i = j
	}
	return out, conflicts.errors(of, server)
}

// collect lists the endpoints of every slice port that the Service port matches.
func collect(of []EndpointSlice, name string, protocol corev1.Protocol, colour colourFunc) []found {
	var out []found
	for at := range of {
		slice := &of[at]
		port, ok := slicePort(slice, name, protocol)
		if !ok {
			continue
		}
		out = slices.Grow(out, len(slice.Endpoints))
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			out = append(out, found{slice: at, Endpoint: Endpoint{
				Addr: e.Addr, Port: port, Colour: colour(slice, e), Node: e.Node, Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating,
			}})
		}
	}
	return out
}

func slicePort(slice *EndpointSlice, name string, protocol corev1.Protocol) (uint16, bool) {
	for _, p := range slice.Ports {
		if p.Name == name && p.Protocol == protocol {
			return p.Port, true
		}
	}
	return 0, false
}

func merge(same []found, conflicts *conflicts) Endpoint {
	best := same[0]
	for _, f := range same[1:] {
		switch {
		case f.Colour == best.Colour:
			if usability(f.Endpoint) > usability(best.Endpoint) {
				f.slice = best.slice // the first slice stays the one that counts for its colour
				best = f
			}
		case best.Colour == "":
			best = f
		case f.Colour != "":
			conflicts.add(best, f)
		}
	}
	return best.Endpoint
}

func usability(e Endpoint) int {
	switch {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// conflicts gathers addresses under two colours, one message for each pair of slices.
type conflicts struct {
	first map[[2]int][2]Endpoint
	count map[[2]int]int
}

func newConflicts() *conflicts { return &conflicts{} }

func (c *conflicts) add(kept, other found) {
	if c.first == nil {
		c.first, c.count = map[[2]int][2]Endpoint{}, map[[2]int]int{}
	}
	pair := [2]int{kept.slice, other.slice}
	if c.count[pair]++; c.count[pair] == 1 {
		c.first[pair] = [2]Endpoint{kept.Endpoint, other.Endpoint}
	}
}

func (c *conflicts) errors(of []EndpointSlice, server types.NamespacedName) []SourceError {
	var out []SourceError
	for pair, e := range c.first {
		kept, other := &of[pair[0]], &of[pair[1]]
		more := ""
		if n := c.count[pair] - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		out = append(out, SourceError{Source: other.Source, Message: fmt.Sprintf(
			"EndpointSlice %s/%s: %s%s has colour %s here but %s in EndpointSlice %s, which sorts first and is used for VirtualServer %s; remove it from one of them",
			other.Namespace, other.Name, netip.AddrPortFrom(e[1].Addr, e[1].Port), more, e[1].Colour, e[0].Colour, kept.Name, server)})
	}
	return out
}
