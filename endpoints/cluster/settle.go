package cluster

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/endpoints"
)

// What the watches bring goes straight to the resolver, but for VirtualServers: they wait until what
// they need is known. These all run with mu held.

func (s *Source) setServer(key types.NamespacedName, obj any) {
	d := obj.(*declared) // the reflector lets no other type through
	s.resolver.SetDecision(key, d.decision)
	if old, ok := s.declared[key]; ok && old.Digest == digest(d) {
		s.wake() // a status was written
		return
	}
	s.declared[key], s.unsettled = s.specs.declare(d), true
	s.wake()
}

func (s *Source) removeServer(key types.NamespacedName) {
	delete(s.declared, key)
	s.unsettled = true
	s.wake()
}

func (s *Source) setService(key types.NamespacedName, obj any) {
	s.resolver.SetService(obj.(*corev1.Service))
	delete(s.left, key)
	delete(s.missing, key)
	s.unsettled = true
	s.wake()
}

// removeService keeps the Service until a lookup has told whether it lost its label or its life.
func (s *Source) removeService(key types.NamespacedName) {
	s.left[key], s.unsettled = struct{}{}, true
	s.wake()
}

func (s *Source) setSlice(key types.NamespacedName, obj any) {
	delete(s.leftSlices, key)
	s.resolver.SetSlice(obj.(*slice).of)
	s.wake()
}

// removeSlice keeps a slice for a moment, and as long as its Service is kept: it may only have lost its label,
// as the slices of a Service do that has lost it, and without them the Service would have no endpoint until the
// lookup has told.
func (s *Source) removeSlice(key types.NamespacedName) {
	s.leftSlices[key] = time.Now().Add(slicePatience)
	s.wake()
}

// dropSlices forgets slices that were kept long enough, and says when to do so again.
func (s *Source) dropSlices(now time.Time) (again time.Time) {
	for key, until := range s.leftSlices {
		if _, left := s.left[s.resolver.SliceOf(key)]; left {
			continue // settle ends that, and update comes by
		}
		if now.Before(until) {
			if again.IsZero() || until.Before(again) {
				again = until
			}
			continue
		}
		delete(s.leftSlices, key)
		s.resolver.DeleteSlice(key)
	}
	return again
}

// settle hands VirtualServers to the resolver when all that they need is known, and sees that what is
// needed, and no more, is watched and looked up. It says when time alone may change something.
func (s *Source) settle(now time.Time) (again time.Time) {
	for _, l := range s.missing {
		if until := l.asked.Add(lookupPatience); !l.answered {
			if until.After(now) && (again.IsZero() || until.Before(again)) {
				again = until
			}
			s.unsettled = true
		}
	}
	if !s.unsettled || !s.services.synced {
		return again
	}
	s.unsettled = false
	labels := map[string]bool{}
	names := map[types.NamespacedName]bool{}
	need := func(vs *endpoints.VirtualServer) {
		if vs.Invalid == nil {
			labels[vs.Spec.ColourLabel], names[vs.ServiceKey()] = true, true
		}
	}
	for _, vs := range s.declared {
		need(vs)
	}
	for key, vs := range s.applied {
		if _, ok := s.declared[key]; ok {
			need(vs) // in force until the declared one is
		} else {
			delete(s.applied, key)
			s.resolver.DeleteVirtualServer(key)
		}
	}
	if first := s.lookUp(names, now); again.IsZero() || !first.IsZero() && first.Before(again) {
		again = first
	}
	s.watchPods(labels, now)
	for key, vs := range s.declared {
		if s.applied[key] != vs && s.known(vs, now) {
			s.applied[key] = vs
			s.resolver.SetVirtualServer(vs)
			s.unsettled = true // the one before may have needed what nobody does now
		}
	}
	if s.unsettled {
		s.wake()
	}
	return again
}

// known tells whether all that a VirtualServer needs is.
func (s *Source) known(vs *endpoints.VirtualServer, now time.Time) bool {
	if vs.Invalid != nil {
		return true
	}
	if p := s.pods[vs.Spec.ColourLabel]; p == nil || !p.store.synced {
		return false
	}
	l := s.missing[vs.ServiceKey()]
	return l == nil || l.answered || !now.Before(l.asked.Add(lookupPatience))
}

// lookUp asks for the Services that are named and that the watch does not show. It says when patience
// with a new one ends.
func (s *Source) lookUp(names map[types.NamespacedName]bool, now time.Time) (until time.Time) {
	for name := range names {
		if _, shown := s.services.have[name]; !shown && s.missing[name] == nil {
			s.missing[name] = &lookup{asked: now, due: now, delay: lookupFirst / 2}
			until = now.Add(lookupPatience)
			select {
			case s.lookupWanted <- struct{}{}:
			default:
			}
		}
	}
	for name, l := range s.missing {
		if !names[name] {
			delete(s.missing, name)
			s.resolver.DeleteService(name)
		} else if _, left := s.left[name]; left && (l.answered || !now.Before(l.asked.Add(lookupPatience))) {
			delete(s.left, name)
			if !l.answered {
				s.resolver.DeleteService(name)
			}
		}
	}
	for name := range s.left {
		if !names[name] {
			delete(s.left, name)
			s.resolver.DeleteService(name)
		}
	}
	return until
}

// waiting are the names of what must be known before anything is published.
func (s *Source) waiting() []string {
	var out []string
	for _, st := range []*store{s.servers, s.services, s.slices} {
		if !st.synced {
			out = append(out, st.name)
		}
	}
	for _, p := range s.pods {
		if !p.store.synced {
			out = append(out, p.store.name)
		}
	}
	slices.Sort(out)
	if len(out) > 0 {
		return out
	}
	for key, vs := range s.declared {
		if s.applied[key] != vs {
			return []string{"the Services that VirtualServers name"}
		}
	}
	return nil
}
