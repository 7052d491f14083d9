package cluster

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// podWatch is what one colour label says of Pods. Of a Pod nothing else is asked for or kept.
type podWatch struct {
	label   string
	store   *store
	colours map[types.NamespacedName]string
	values  map[string]string // each colour once in memory, not once a Pod
	cancel  func()
}

var podExample = func() *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{}
	p.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	return p
}()

// watchPods has the labels watched that are in use, and no others.
func (s *Source) watchPods(labels map[string]bool, now time.Time) {
	for label, p := range s.pods {
		if !labels[label] {
			p.store.stopped = true
			p.cancel()
			s.health.forget(p.store.name, now)
			delete(s.pods, label)
		}
	}
	for label := range labels {
		if s.pods[label] == nil {
			p := &podWatch{label: label, colours: map[types.NamespacedName]string{}, values: map[string]string{}}
			p.store = s.newStore("pods with the label "+label, trimPod(label))
			p.store.set = func(key types.NamespacedName, obj any) {
				s.setColour(p, key, obj.(*podLabel).colour)
			}
			p.store.remove = func(key types.NamespacedName) { s.setColour(p, key, "") }
			s.pods[label] = p
			s.startPods(p)
		}
	}
}

// setColour takes what matters from a Pod's many changes.
func (s *Source) setColour(p *podWatch, key types.NamespacedName, colour string) {
	if p.colours[key] == colour {
		return
	}
	if colour == "" {
		delete(p.colours, key)
	} else {
		if _, ok := p.values[colour]; !ok {
			p.values[colour] = colour
		}
		p.colours[key] = p.values[colour]
	}
	if s.resolver.PodChanged(key) {
		s.wake()
	}
}

// podColour is asked by the resolver.
func (s *Source) podColour(pod types.NamespacedName, label string) string {
	if p := s.pods[label]; p != nil {
		return p.colours[pod]
	}
	return ""
}
