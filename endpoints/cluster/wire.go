package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

// VirtualServers come as JSON, since a CRD has no other encoding that is on everywhere, and by the thousand at a start,
// while traffic waits. So they are read in one go into the little that is needed of them; client-go's decoders go over the text
// of each some seven times. The spec is left as it is: one that does not decode is the fault of its object
// alone, and must not spoil the list.

// declared is a VirtualServer as the API server has it.
type declared struct {
	metav1.TypeMeta
	metav1.ObjectMeta // Name, Namespace, UID, Generation, ResourceVersion, and a bookmark's Annotations
	spec              json.RawMessage
	decision          *endpoints.Decision
}

// DeepCopyObject makes it a runtime.Object. Nobody changes one.
func (d *declared) DeepCopyObject() runtime.Object {
	c := *d
	return &c
}

// wire is what is read of one. What is not named is passed over: conditions, history and managedFields are the larger part.
type wire struct {
	wireStatus
	Metadata struct {
		Name            string            `json:"name"`
		Namespace       string            `json:"namespace"`
		UID             types.UID         `json:"uid"`
		ResourceVersion string            `json:"resourceVersion"`
		Generation      int64             `json:"generation"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec   json.RawMessage `json:"spec"`
	Status decided         `json:"status"`
}

// decided is what is read of a status. It stands in the place of a metav1.Status's own, which is a text.
type decided struct {
	Decision  int64          `json:"decision"`
	Active    string         `json:"active"`
	Previous  string         `json:"previous"`
	Retiring  string         `json:"retiring"`
	Candidate string         `json:"candidate"`
	Weight    int32          `json:"weight"`
	Phase     v1alpha1.Phase `json:"phase"`
	Rollback  bool           `json:"rollback"`
}

// UnmarshalJSON passes over what is no object.
func (d *decided) UnmarshalJSON(text []byte) error {
	if len(text) == 0 || text[0] != '{' {
		return nil
	}
	type plain decided
	return json.Unmarshal(text, (*plain)(d))
}

// of is the decision, nil when there is none yet.
func (d *decided) of() *endpoints.Decision {
	if d.Active == "" {
		return nil
	}
	return &endpoints.Decision{
		Number: d.Decision, Active: d.Active, Previous: d.Previous, Retiring: d.Retiring,
		Candidate: d.Candidate, Weight: d.Weight, Phase: d.Phase, Rollback: d.Rollback,
	}
}

// wireStatus is what is read of a metav1.Status, which may stand in the place of an object.
type wireStatus struct {
	Message string                `json:"message"`
	Reason  metav1.StatusReason   `json:"reason"`
	Code    int32                 `json:"code"`
	Details *metav1.StatusDetails `json:"details"`
}

func (w *wire) declared() *declared {
	m := &w.Metadata
	return &declared{spec: w.Spec, decision: w.Status.of(), ObjectMeta: metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		Annotations: m.Annotations,
	}}
}

// declaredList is a part of the list.
type declaredList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []declared
}

// DeepCopyObject makes it a runtime.Object.
func (l *declaredList) DeepCopyObject() runtime.Object {
	c := *l
	return &c
}

func (c *client) virtualServers() reader {
	get := func(o metav1.ListOptions) *rest.Request {
		return c.own.Get().Resource(virtualServers.Resource).SpecificallyVersionedParams(&o, c.parameters, corev1.SchemeGroupVersion)
	}
	return reader{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			text, err := get(o).Do(ctx).Raw()
			if err != nil {
				return nil, err
			}
			return readList(text)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return stream(ctx, get(o), func(body io.ReadCloser) watch.Decoder { return newEvents(body) })
		},
	}
}

// stream begins a watch that is read by a decoder of our own.
func stream(ctx context.Context, get *rest.Request, decoder func(io.ReadCloser) watch.Decoder) (watch.Interface, error) {
	body, err := get.Stream(ctx)
	switch {
	case err == nil:
		return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), decoder(body), apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "WatchDecoding")), nil
	case utilnet.IsProbableEOF(err), utilnet.IsTimeout(err):
		return watch.NewEmptyWatch(), nil // as client-go's own: what was begun is tried again at once
	}
	return nil, err
}

func readList(text []byte) (*declaredList, error) {
	var in struct {
		Metadata metav1.ListMeta `json:"metadata"`
		Items    []wire          `json:"items"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("reading the list of VirtualServers: %w", err)
	}
	out := &declaredList{ListMeta: in.Metadata, Items: make([]declared, len(in.Items))}
	for i := range in.Items {
		out.Items[i] = *in.Items[i].declared()
	}
	return out, nil
}

// events reads a watch. It is a watch.Decoder.
type events struct {
	body io.ReadCloser
	text *json.Decoder
}

func newEvents(body io.ReadCloser) *events { return &events{body, json.NewDecoder(body)} }

func (e *events) Close() { _ = e.body.Close() }

func (e *events) Decode() (watch.EventType, runtime.Object, error) {
	var event struct {
		Type   watch.EventType `json:"type"`
		Object wire            `json:"object"`
	}
	if err := e.text.Decode(&event); err != nil {
		return "", nil, err
	}
	switch event.Type {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		return event.Type, event.Object.declared(), nil
	case watch.Error:
		s := &event.Object.wireStatus
		return event.Type, &metav1.Status{Status: metav1.StatusFailure, Message: s.Message, Reason: s.Reason, Code: s.Code, Details: s.Details}, nil
	}
	return "", nil, fmt.Errorf("watching VirtualServers: there is no event of type %q", event.Type)
}
