package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/pointsman/pointsman/endpoints"
)

// VirtualServers come as JSON, since a CRD has no other encoding that is on everywhere, and by the thousand at a start,
// while traffic waits. So they are read in one go into the little that is needed of them; conditions, history and managed
// fields, the larger part, are passed over, where client-go's decoders go over the text some seven times. The spec is left as it is: one
// that does not decode is the fault of its object alone, and must not spoil the list.

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

// read takes a VirtualServer, of which the text may be used for something else later.
func (d *declared) read(t *text) error {
	return t.object(func(key []byte) error {
		switch string(key) {
		case "metadata":
			return d.readMeta(t)
		case "spec":
			raw, err := t.raw()
			d.spec = slices.Clone(raw)
			return err
		case "status":
			return d.readDecision(t)
		}
		return t.skip()
	})
}

func (d *declared) readMeta(t *text) error {
	return t.object(func(key []byte) error {
		switch string(key) {
		case "name":
			return t.value(&d.Name)
		case "namespace":
			return t.value(&d.Namespace)
		case "uid":
			return t.value((*string)(&d.UID))
		case "resourceVersion":
			return t.value(&d.ResourceVersion)
		case "generation":
			return t.value(&d.Generation)
		case "annotations":
			return t.object(func(key []byte) error {
				if string(key) != metav1.InitialEventsAnnotationKey {
					return t.skip()
				}
				var value string
				err := t.value(&value)
				d.Annotations = map[string]string{string(key): value}
				return err
			})
		}
		return t.skip()
	})
}

// readDecision takes what is decided out of a status; there is none when no colour is active yet.
func (d *declared) readDecision(t *text) error {
	var of endpoints.Decision
	err := t.object(func(key []byte) error {
		switch string(key) {
		case "decision":
			return t.value(&of.Number)
		case "active":
			return t.value(&of.Active)
		case "previous":
			return t.value(&of.Previous)
		case "retiring":
			return t.value(&of.Retiring)
		case "candidate":
			return t.value(&of.Candidate)
		case "weight":
			return t.value(&of.Weight)
		case "phase":
			return t.value((*string)(&of.Phase))
		case "rollback":
			return t.value(&of.Rollback)
		}
		return t.skip()
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
			return stream(ctx, get(o), events)
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

func readList(all []byte) (*listOf[declared], error) {
	out, t := &listOf[declared]{}, &text{b: all}
	err := t.object(func(key []byte) error {
		switch string(key) {
		case "metadata":
			return t.value(&out.ListMeta)
		case "items":
			return t.array(func() error {
				out.Items = append(out.Items, declared{})
				return out.Items[len(out.Items)-1].read(t)
			})
		}
		return t.skip()
	})
	if err != nil {
		return nil, fmt.Errorf("reading the list of VirtualServers: %w", err)
	}
	return out, nil
}

// events reads a watch. It is a watch.Decoder.
type events struct {
	body io.ReadCloser
	in   *bufio.Reader
	have []byte // that was read and is not decoded yet
}

// readBuffer is what is asked of a connection at a time.
const readBuffer = 16 << 10

// keepBuffer is how large a buffer is kept for the next event: not one that a single large object made.
const keepBuffer = 64 << 10

func newEvents(body io.ReadCloser) *events {
	return &events{body: body, in: bufio.NewReaderSize(body, readBuffer)}
}

func (e *events) Close() { _ = e.body.Close() }

// Decode takes the next event. An API server writes each on a line; what does not is read again with each of its lines.
func (e *events) Decode() (watch.EventType, runtime.Object, error) {
	for {
		if e.have = bytes.TrimLeft(e.have, " \t\r\n"); len(e.have) > 0 {
			t := &text{b: e.have}
			kind, object, err := readEvent(t)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				e.have = append(e.have[:0], e.have[t.at:]...)
				if cap(e.have) > keepBuffer && len(e.have) == 0 {
					e.have = nil
				}
				return kind, object, err
			}
		}
		for more := true; more; {
			line, err := e.in.ReadSlice('\n')
			e.have = append(e.have, line...)
			more = errors.Is(err, bufio.ErrBufferFull)
			switch {
			case err == nil, more:
			case errors.Is(err, io.EOF) && len(line) > 0: // the last line
			case errors.Is(err, io.EOF) && len(e.have) > 0:
				return "", nil, io.ErrUnexpectedEOF
			default:
				return "", nil, err
			}
		}
	}
}

func readEvent(t *text) (kind watch.EventType, object runtime.Object, err error) {
	var raw []byte
	if err := t.object(func(key []byte) (err error) {
		switch string(key) {
		case "type":
			err = t.value((*string)(&kind))
		case "object":
			raw, err = t.raw()
		default:
			err = t.skip()
		}
		return err
	}); err != nil {
		return "", nil, err
	}
	switch kind {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		d := &declared{}
		if err := d.read(&text{b: raw}); err != nil {
			return "", nil, fmt.Errorf("watching VirtualServers: %s", err) // not that it is cut off: raw is whole
		}
		return kind, d, nil
	case watch.Error:
		s := &metav1.Status{}
		return kind, s, json.Unmarshal(raw, s)
	}
	return "", nil, fmt.Errorf("watching VirtualServers: there is no event of type %q", kind)
}
