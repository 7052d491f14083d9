package endpoints

import (
	"cmp"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Resolver is [Resolve] made in steps: it is told of objects as they change, and resolves again only
// the VirtualServers that a change can touch. Whatever the steps were, its Snapshot is what Resolve
// makes of the objects as they are.
//
// It keeps the objects given to it, which must not be changed any more, and belongs to one goroutine.
type Resolver struct {
	podColour PodColour
	servers   map[types.NamespacedName]*resolved
	services  map[types.NamespacedName]*backing
	slices    map[types.NamespacedName]*backing   // of each slice, the Service it names
	pods      map[types.NamespacedName][]*backing // of each Pod, the Services of endpoints that name it; once an endpoint
	gone      map[types.NamespacedName]bool       // Services that are known not to be there

	decisions map[types.NamespacedName]*Decision
	decided   map[types.NamespacedName]bool // servers that only a decision was made for

	dirty    map[types.NamespacedName]bool // servers to resolve again
	unsorted bool                          // a server came or went
	last     *Snapshot
}

// resolved is a VirtualServer and what was made of it, before its claims met those of others.
type resolved struct {
	vs     *VirtualServer
	server Server
	claims []claim
	errs   []SourceError
}

// backing is what stands under the name of a Service. The Service itself may not be there.
type backing struct {
	service *corev1.Service
	slices  []EndpointSlice        // in the order of their names
	servers []types.NamespacedName // VirtualServers that name it
}

// NewResolver starts from nothing. PodColour is asked about the targetRef of an endpoint whose slice
// carries no colour label; nil where there are no Pods to ask about. Previous, which may be nil, is the
// Snapshot whose VirtualServers keep what they held.
func NewResolver(podColour PodColour, previous *Snapshot) *Resolver {
	return &Resolver{
		podColour: podColour,
		servers:   map[types.NamespacedName]*resolved{},
		services:  map[types.NamespacedName]*backing{},
		slices:    map[types.NamespacedName]*backing{},
		pods:      map[types.NamespacedName][]*backing{},
		gone:      map[types.NamespacedName]bool{},
		decisions: map[types.NamespacedName]*Decision{},
		decided:   map[types.NamespacedName]bool{},
		dirty:     map[types.NamespacedName]bool{},
		last:      previous,
		unsorted:  true,
	}
}

// SetVirtualServer adds a VirtualServer or replaces the one of its name.
func (r *Resolver) SetVirtualServer(vs *VirtualServer) {
	key := vs.Key()
	old := r.servers[key]
	if old == nil {
		r.unsorted = true
		old = &resolved{}
		r.servers[key] = old
	} else {
		r.leave(old.vs)
	}
	old.vs = vs
	b := r.backing(vs.ServiceKey())
	b.servers = append(b.servers, key)
	r.dirty[key] = true
}

// SetDecision says what was decided for a VirtualServer, which may be set later. It has nothing resolved again.
func (r *Resolver) SetDecision(key types.NamespacedName, d *Decision) {
	if before := r.decisions[key]; before != nil && d != nil && *before == *d || before == nil && d == nil {
		return
	}
	r.decisions[key], r.decided[key] = d, true
}

// DeleteVirtualServer forgets one.
func (r *Resolver) DeleteVirtualServer(key types.NamespacedName) {
	if old := r.servers[key]; old != nil {
		r.leave(old.vs)
		delete(r.servers, key)
		delete(r.dirty, key)
		delete(r.decisions, key)
		r.unsorted = true
	}
}

func (r *Resolver) leave(vs *VirtualServer) {
	name := vs.ServiceKey()
	b := r.backing(name)
	b.servers = slices.DeleteFunc(b.servers, func(k types.NamespacedName) bool { return k == vs.Key() })
	r.tidy(name, b)
}

// SetService adds a Service or replaces the one of its name.
func (r *Resolver) SetService(svc *corev1.Service) {
	b := r.backing(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	b.service = svc
	delete(r.gone, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	r.touch(b)
}

// DeleteService forgets one, of which it is not known whether it is there. Its slices stay until they are
// deleted themselves.
func (r *Resolver) DeleteService(name types.NamespacedName) {
	delete(r.gone, name)
	r.withoutService(name)
}

// ServiceGone is DeleteService for one that is known not to be there.
func (r *Resolver) ServiceGone(name types.NamespacedName) {
	r.gone[name] = true
	r.withoutService(name)
}

func (r *Resolver) withoutService(name types.NamespacedName) {
	if b := r.services[name]; b != nil {
		b.service = nil
		r.touch(b)
		r.tidy(name, b)
	}
}

// Service is the one of a name, or nil.
func (r *Resolver) Service(name types.NamespacedName) *corev1.Service {
	if b := r.services[name]; b != nil {
		return b.service
	}
	return nil
}

// SetSlice adds a slice or replaces the one of its name.
func (r *Resolver) SetSlice(slice EndpointSlice) {
	key := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	of := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Service}
	if r.slices[key] != nil && (of.Name == "" || r.slices[key] != r.services[of]) {
		r.DeleteSlice(key)
	}
	if of.Name == "" {
		return
	}
	b := r.backing(of)
	at, found := b.find(slice.Name)
	if found {
		r.forgetPods(b, &b.slices[at])
		b.slices[at] = slice
	} else {
		b.slices = slices.Insert(b.slices, at, slice)
	}
	r.slices[key] = b
	r.eachPod(&slice, func(pod types.NamespacedName) { r.pods[pod] = append(r.pods[pod], b) })
	r.touch(b)
}

// SliceOf is the Service that a slice names; the zero name for a slice that is not there.
func (r *Resolver) SliceOf(key types.NamespacedName) types.NamespacedName {
	b := r.slices[key]
	if b == nil {
		return types.NamespacedName{}
	}
	at, _ := b.find(key.Name)
	return types.NamespacedName{Namespace: key.Namespace, Name: b.slices[at].Service}
}

// DeleteSlice forgets one.
func (r *Resolver) DeleteSlice(key types.NamespacedName) {
	b := r.slices[key]
	if b == nil {
		return
	}
	delete(r.slices, key)
	at, found := b.find(key.Name)
	if !found {
		return
	}
	slice := b.slices[at]
	r.forgetPods(b, &slice)
	b.slices = slices.Delete(b.slices, at, at+1)
	r.touch(b)
	r.tidy(types.NamespacedName{Namespace: slice.Namespace, Name: slice.Service}, b)
}

// PodChanged says that PodColour may answer otherwise about a Pod. It tells whether that matters.
func (r *Resolver) PodChanged(pod types.NamespacedName) bool {
	of := r.pods[pod]
	for _, b := range of {
		r.touch(b)
	}
	return len(of) > 0
}

func (b *backing) find(name string) (int, bool) {
	return slices.BinarySearchFunc(b.slices, name, func(s EndpointSlice, name string) int { return cmp.Compare(s.Name, name) })
}

func (r *Resolver) eachPod(slice *EndpointSlice, do func(types.NamespacedName)) {
	if r.podColour == nil {
		return
	}
	for i := range slice.Endpoints {
		if pod, ok := podOf(slice, &slice.Endpoints[i]); ok {
			do(pod)
		}
	}
}

func (r *Resolver) forgetPods(b *backing, slice *EndpointSlice) {
	r.eachPod(slice, func(pod types.NamespacedName) {
		of := r.pods[pod]
		if at := slices.Index(of, b); at >= 0 {
			of = slices.Delete(of, at, at+1)
		}
		if r.pods[pod] = of; len(of) == 0 {
			delete(r.pods, pod)
		}
	})
}

func (r *Resolver) backing(name types.NamespacedName) *backing {
	b := r.services[name]
	if b == nil {
		b = &backing{}
		r.services[name] = b
	}
	return b
}

func (r *Resolver) tidy(name types.NamespacedName, b *backing) {
	if b.service == nil && len(b.slices) == 0 && len(b.servers) == 0 {
		delete(r.services, name)
	}
}

func (r *Resolver) touch(b *backing) {
	for _, key := range b.servers {
		r.dirty[key] = true
	}
}

// Snapshot resolves what changed since the last call. What did not change shares memory with the
// Snapshot before, which itself is returned when nothing did.
func (r *Resolver) Snapshot() *Snapshot {
	moved, changed := r.unsorted, r.unsorted
	for key := range r.dirty {
		e := r.servers[key]
		server, errs := r.resolve(e.vs)
		if reflect.DeepEqual(server, e.server) && slices.Equal(errs, e.errs) {
			continue
		}
		own := claimsOf(&server)
		// A server whose claims stay, or that has none, leaves the standing of all others as it is.
		moved = moved || !slices.Equal(own, e.claims)
		changed = true
		e.server, e.claims, e.errs = server, own, errs
	}
	for key := range r.decided {
		if e := r.servers[key]; e != nil && e.server.Decision != r.decisions[key] {
			e.server.Decision = r.decisions[key]
			r.dirty[key], changed = true, true // put into the Snapshot below, as it is
		}
	}
	r.decided = map[types.NamespacedName]bool{}
	if !changed {
		r.dirty = map[types.NamespacedName]bool{}
		return r.last
	}
	snap := &Snapshot{}
	if moved {
		snap.Servers = r.all()
		settleClaims(snap.Servers, r.last)
	} else {
		snap.Servers = slices.Clone(r.last.Servers)
		for key := range r.dirty {
			r.renew(snap.Servers, key)
		}
	}
	for _, e := range r.servers {
		snap.Errors = append(snap.Errors, e.errs...)
	}
	snap.sortErrors()
	r.dirty = map[types.NamespacedName]bool{} // a cleared one would keep the room of the first thousands
	r.unsorted, r.last = false, snap
	return snap
}

// renew puts a server in its place, where one that lost its claims stays refused.
func (r *Resolver) renew(servers []Server, key types.NamespacedName) {
	at, found := slices.BinarySearchFunc(servers, key, func(s Server, key types.NamespacedName) int { return compareKeys(s.Key, key) })
	if !found {
		return
	}
	e := r.servers[key]
	lost := servers[at].Refused
	servers[at] = e.server
	if e.server.Refused == nil && len(e.claims) > 0 && lost != nil {
		servers[at].refuse(lost)
	}
}

func (r *Resolver) all() []Server {
	out := make([]Server, 0, len(r.servers))
	for _, key := range slices.SortedFunc(maps.Keys(r.servers), compareKeys) {
		out = append(out, r.servers[key].server)
	}
	return out
}

func claimsOf(s *Server) []claim {
	if s.Refused != nil {
		return nil
	}
	return claims(s)
}

// resolve joins one VirtualServer with its Service and endpoints.
func (r *Resolver) resolve(vs *VirtualServer) (Server, []SourceError) {
	server := Server{Key: vs.Key(), Spec: vs.Spec, Digest: vs.Digest, Generation: vs.Generation, UID: vs.UID, Decision: r.decisions[vs.Key()]}
	if vs.Invalid != nil {
		server.Refused = vs.Invalid
		return server, nil
	}
	name := vs.ServiceKey()
	b := r.services[name]
	if server.Refused = refuseService(name, b.service, r.gone[name]); server.Refused != nil {
		server.Coming = coming(b.service)
		return server, nil
	}
	server.Affinity = affinity(b.service)
	var errs []SourceError
	server.Ports, errs = ports(b.service, b.slices, colourOf(vs.Spec.ColourLabel, r.podColour), server.Key)
	return server, errs
}
