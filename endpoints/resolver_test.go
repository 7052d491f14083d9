package endpoints

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// state is a small world that changes at random: few names, so that they meet often.
type state struct {
	servers  map[types.NamespacedName]*VirtualServer
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]EndpointSlice
	pods     map[types.NamespacedName]map[string]string
	resolver *Resolver
	last     *Snapshot
	steps    int64
}

func (s *state) podColour(pod types.NamespacedName, label string) string { return s.pods[pod][label] }

func (s *state) objects() Objects {
	return Objects{
		VirtualServers: slices.Collect(maps.Values(s.servers)),
		Services:       slices.Collect(maps.Values(s.services)),
		EndpointSlices: slices.Collect(maps.Values(s.slices)),
		PodColour:      s.podColour, Previous: s.last,
	}
}

func name(rt *rapid.T, prefix string, n int) types.NamespacedName {
	return types.NamespacedName{
		Namespace: rapid.SampledFrom([]string{"default", "default", "other"}).Draw(rt, "namespace"),
		Name:      fmt.Sprintf("%s%d", prefix, rapid.IntRange(1, n).Draw(rt, prefix)),
	}
}

func (s *state) step(rt *rapid.T) {
	s.steps++
	remove := rapid.IntRange(0, 3).Draw(rt, "remove") == 0
	switch rapid.SampledFrom([]string{"server", "service", "slice", "slice", "pod"}).Draw(rt, "kind") {
	case "server":
		key := name(rt, "vs", 4)
		if remove {
			delete(s.servers, key)
			s.resolver.DeleteVirtualServer(key)
			return
		}
		vs := &v1alpha1.VirtualServer{}
		vs.Namespace, vs.Name = key.Namespace, key.Name
		vs.Spec.Service.Name = fmt.Sprintf("s%d", rapid.IntRange(1, 4).Draw(rt, "of"))
		vs.Spec.Active = "v1"
		vs.Spec.ColourLabel = rapid.SampledFrom([]string{"version", "track"}).Draw(rt, "label")
		if rapid.IntRange(0, 2).Draw(rt, "preview") == 0 {
			vs.Spec.Preview = &v1alpha1.Preview{Colour: "v2", NodePort: new(rapid.Int32Range(30000, 30004).Draw(rt, "preview port"))}
		}
		declared := NewVirtualServer(vs, "")
		declared.Generation = s.steps
		if rapid.IntRange(0, 5).Draw(rt, "invalid") == 0 {
			declared.Invalid = &Refusal{Reason: ReasonInvalid, Message: "no"}
		}
		s.servers[key] = declared
		s.resolver.SetVirtualServer(declared)
	case "service":
		key := name(rt, "s", 4)
		if remove {
			delete(s.services, key)
			s.resolver.DeleteService(key)
			return
		}
		svc := &corev1.Service{}
		svc.Namespace, svc.Name = key.Namespace, key.Name
		if rapid.IntRange(0, 5).Draw(rt, "labelled") > 0 {
			svc.Labels = map[string]string{ServiceProxyLabel: ServiceProxyName}
		}
		svc.Spec.Type = corev1.ServiceTypeNodePort
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: rapid.Int32Range(30000, 30004).Draw(rt, "port")}}
		s.services[key] = svc
		s.resolver.SetService(svc)
	case "slice":
		key := name(rt, "e", 5)
		if remove {
			delete(s.slices, key)
			s.resolver.DeleteSlice(key)
			return
		}
		port := int32(80)
		slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Port: &port}}}
		slice.Namespace, slice.Name = key.Namespace, key.Name
		slice.Labels = map[string]string{}
		if of := rapid.IntRange(0, 4).Draw(rt, "of"); of > 0 {
			slice.Labels[discoveryv1.LabelServiceName] = fmt.Sprintf("s%d", of)
		}
		if colour := rapid.SampledFrom([]string{"", "", "v1", "v2"}).Draw(rt, "colour"); colour != "" {
			slice.Labels["version"] = colour
		}
		for range rapid.IntRange(0, 4).Draw(rt, "endpoints") {
			e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 5).Draw(rt, "addr"))}}
			ready := rapid.Bool().Draw(rt, "ready")
			e.Conditions.Ready = &ready
			if pod := rapid.IntRange(0, 4).Draw(rt, "pod"); pod > 0 {
				e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("p%d", pod)}
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		s.slices[key] = NewEndpointSlice(slice, "s")
		s.resolver.SetSlice(s.slices[key])
	case "pod":
		key := name(rt, "p", 4)
		delete(s.pods, key)
		if !remove {
			s.pods[key] = map[string]string{
				"version": rapid.SampledFrom([]string{"", "v1", "v2"}).Draw(rt, "version"),
				"track":   rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "track"),
			}
		}
		s.resolver.PodChanged(key)
	}
}

// TestResolverProperties: whatever happened and however it was batched, the steps' Snapshot is what
// resolving everything afresh gives; it changed nothing that somebody may hold; and where nothing
// changed it is the one before.
func TestResolverProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &state{
			servers: map[types.NamespacedName]*VirtualServer{}, services: map[types.NamespacedName]*corev1.Service{},
			slices: map[types.NamespacedName]EndpointSlice{}, pods: map[types.NamespacedName]map[string]string{},
		}
		s.resolver = NewResolver(s.podColour, nil)
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			for range rapid.IntRange(0, 8).Draw(rt, "steps") {
				s.step(rt)
			}
			full := Resolve(s.objects())
			before := ""
			if s.last != nil {
				before = fmt.Sprintf("%+v", *s.last)
			}
			snap := s.resolver.Snapshot()
			require.Equal(rt, full, snap)
			if s.last != nil {
				require.Equal(rt, before, fmt.Sprintf("%+v", *s.last), "a Snapshot given away was changed")
			}
			require.Same(rt, snap, s.resolver.Snapshot())
			s.last = snap
		}
		// What is gone leaves nothing behind.
		for key := range s.servers {
			s.resolver.DeleteVirtualServer(key)
		}
		for key := range s.services {
			s.resolver.DeleteService(key)
		}
		for key := range s.slices {
			s.resolver.DeleteSlice(key)
		}
		assert.Empty(rt, s.resolver.Snapshot().Servers)
		assert.Empty(rt, s.resolver.services)
		assert.Empty(rt, s.resolver.slices)
		assert.Empty(rt, s.resolver.pods)
	})
}

// fill puts a world into a Resolver, with a Pod behind each endpoint.
func fill(o Objects) (*Resolver, map[types.NamespacedName]string) {
	pods := map[types.NamespacedName]string{}
	r := NewResolver(func(pod types.NamespacedName, _ string) string { return pods[pod] }, nil)
	for _, svc := range o.Services {
		r.SetService(svc)
	}
	for _, slice := range o.EndpointSlices {
		for i := range slice.Endpoints {
			pod := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Endpoints[i].Addr.String()}
			slice.Endpoints[i].Pod = pod.Name
			pods[pod] = slice.label("version")
		}
		slice.Labels = slices.DeleteFunc(slice.Labels, func(l Label) bool { return l.Key == "version" })
		r.SetSlice(slice)
	}
	for _, vs := range o.VirtualServers {
		r.SetVirtualServer(vs)
	}
	return r, pods
}

// TestResolverShares: a change costs new memory for what it touches only.
func TestResolverShares(t *testing.T) {
	o := world(3, 4)
	r, pods := fill(o)
	before := r.Snapshot()
	pod := types.NamespacedName{Namespace: "default", Name: o.EndpointSlices[2].Endpoints[0].Addr.String()}
	pods[pod] = "v3"
	assert.True(t, r.PodChanged(pod))
	after := r.Snapshot()
	require.Len(t, after.Servers, 3)
	for i, same := range []bool{true, false, true} {
		assert.Equal(t, same, &before.Servers[i].Ports[0] == &after.Servers[i].Ports[0], "server %d", i)
	}
	assert.Equal(t, "v1", before.Servers[1].Ports[0].Endpoints[0].Colour)
	assert.Equal(t, "v3", after.Servers[1].Ports[0].Endpoints[0].Colour)
	assert.False(t, r.PodChanged(types.NamespacedName{Namespace: "other", Name: pod.Name}))
}

// BenchmarkResolver changes one endpoint among 20,000 behind 1,000 Services.
func BenchmarkResolver(b *testing.B) {
	o := world(1000, 20)
	r, _ := fill(o)
	require.Len(b, r.Snapshot().Servers, 1000)
	slice := o.EndpointSlices[1000]
	ready := true
	b.ReportAllocs()
	for b.Loop() {
		ready = !ready
		was := r.last
		changed := slice
		changed.Endpoints = slices.Clone(changed.Endpoints)
		changed.Endpoints[0].Ready = ready
		r.SetSlice(changed)
		if r.Snapshot() == was {
			b.Fatal("nothing changed")
		}
	}
}

// BenchmarkResolverFirst resolves all of them.
func BenchmarkResolverFirst(b *testing.B) {
	o := world(1000, 20)
	b.ReportAllocs()
	for b.Loop() {
		r, _ := fill(o)
		r.Snapshot()
	}
}
