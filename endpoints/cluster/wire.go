package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/jsontext"
	"github.com/pointsman/pointsman/internal/jsonwatch"
)

// VirtualServers come as JSON, since a CRD has no other encoding that is on everywhere, and by the thousand at a start,
// while traffic waits. So they are read in one go into the little that is needed of them; conditions, history and managed
// fields, the larger part, are passed over, where client-go's decoders go over the text some seven times. The spec is left as it is: one
// that does not decode is the fault of its object alone, and must not spoil the list.

// declared is a VirtualServer as the API server has it.
type declared struct {
	metav1.TypeMeta
	metav1.ObjectMeta // Name, Namespace, UID, Generation, ResourceVersion
	spec              json.RawMessage
	decision          *endpoints.Decision
}

// DeepCopyObject makes it a runtime.Object. Nobody changes one.
func (d *declared) DeepCopyObject() runtime.Object {
	c := *d
	return &c
}

// read takes a VirtualServer, of which the text may be used for something else later.
func (d *declared) read(t *jsontext.Text) error {
	return t.Object(func(key []byte) error {
		switch string(key) {
		case "metadata":
			return d.readMeta(t)
		case "spec":
			raw, err := t.Raw()
			d.spec = slices.Clone(raw)
			return err
		case "status":
			return d.readDecision(t)
		}
		return t.Skip()
	})
}

func (d *declared) readMeta(t *jsontext.Text) error {
	return t.Object(func(key []byte) error {
		switch string(key) {
		case "name":
			return t.Value(&d.Name)
		case "namespace":
			return t.Value(&d.Namespace)
		case "uid":
			return t.Value((*string)(&d.UID))
		case "resourceVersion":
			return t.Value(&d.ResourceVersion)
		case "generation":
			return t.Value(&d.Generation)
		}
		return t.Skip()
	})
}

// readDecision takes what is decided out of a status; there is none when no colour is active yet.
func (d *declared) readDecision(t *jsontext.Text) error {
	var of endpoints.Decision
	err := t.Object(func(key []byte) error {
		switch string(key) {
		case "decision":
			return t.Value(&of.Number)
		case "active":
			return t.Value(&of.Active)
		case "previous":
			return t.Value(&of.Previous)
		case "retiring":
			return t.Value(&of.Retiring)
		case "candidate":
			return t.Value(&of.Candidate)
		case "weight":
			return t.Value(&of.Weight)
		case "phase":
			return t.Value((*string)(&of.Phase))
		case "rollback":
			return t.Value(&of.Rollback)
		}
		return t.Skip()
	})
	if of.Active != "" {
		d.decision = &of
	}
	return err
}

// listOf is a list, or a part of one.
type listOf[T any] struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []T
}

// DeepCopyObject makes it a runtime.Object.
func (l *listOf[T]) DeepCopyObject() runtime.Object {
	c := *l
	return &c
}

func (c *client) virtualServers() reader {
	return decodedHere(func(o metav1.ListOptions) *rest.Request {
		return c.own.Get().Resource(virtualServers.Resource).SpecificallyVersionedParams(&o, c.parameters, corev1.SchemeGroupVersion)
	}, readList, func(body io.ReadCloser) watch.Decoder { return newEvents(body) })
}

// decodedHere reads what requests are answered with by decoders of our own.
func decodedHere[T any](get func(metav1.ListOptions) *rest.Request, list func([]byte) (*listOf[T], error), events func(io.ReadCloser) watch.Decoder) reader {
	return reader{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			text, err := get(o).Do(ctx).Raw()
			if err != nil {
				return nil, err
			}
			return list(text)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return jsonwatch.Stream(ctx, get(o), events)
		},
	}
}

func readList(all []byte) (*listOf[declared], error) {
	out, t := &listOf[declared]{}, jsontext.NewText(all)
	err := t.Object(func(key []byte) error {
		switch string(key) {
		case "metadata":
			return t.Value(&out.ListMeta)
		case "items":
			return t.Array(func() error {
				out.Items = append(out.Items, declared{})
				return out.Items[len(out.Items)-1].read(t)
			})
		}
		return t.Skip()
	})
	if err != nil {
		return nil, fmt.Errorf("reading the list of VirtualServers: %w", err)
	}
	return out, nil
}

// newEvents reads a watch of VirtualServers.
func newEvents(body io.ReadCloser) *jsonwatch.Events {
	return jsonwatch.NewEvents(body, "VirtualServers", func(raw []byte) (runtime.Object, error) {
		d := &declared{}
		return d, d.read(jsontext.NewText(raw))
	})
}
