package cluster

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/endpoints"
)

// EndpointSlices are the larger part of what is read at a start, while traffic waits, and of what is kept. So they are read
// straight into what matters of them; client-go's decoders make ten allocations for each endpoint, and managed fields on top.

// slice is an EndpointSlice as the API server has it.
type slice struct {
	metav1.TypeMeta
	metav1.ObjectMeta // Name, Namespace, ResourceVersion
	of                endpoints.EndpointSlice
}

// DeepCopyObject makes it a runtime.Object. Nobody changes one.
func (s *slice) DeepCopyObject() runtime.Object {
	c := *s
	return &c
}

func (c *client) endpointSlices() reader {
	return decodedHere(func(o metav1.ListOptions) *rest.Request {
		o.LabelSelector = selector
		return c.discovery.Get().Resource("endpointslices").VersionedParams(&o, c.parameters)
	}, c.slices.readList, func(body io.ReadCloser) watch.Decoder {
		return &sliceEvents{body: body, in: bufio.NewReaderSize(body, readBuffer), read: c.slices}
	})
}

// sliceReader reads EndpointSlices.
type sliceReader struct {
	names  *names
	source string // that errors about them name
}

var protobufPrefix = []byte("k8s\x00") // of an object (k8s.io/apimachinery/pkg/runtime/serializer/protobuf)

// readList reads a list, in protobuf or, from what speaks no protobuf, in JSON.
func (r sliceReader) readList(text []byte) (*listOf[slice], error) {
	out := &listOf[slice]{}
	if !bytes.HasPrefix(text, protobufPrefix) {
		var in discoveryv1.EndpointSliceList
		if err := json.Unmarshal(text, &in); err != nil {
			return nil, fmt.Errorf("reading the list of EndpointSlices: %w", err)
		}
		out.ListMeta = in.ListMeta
		for i := range in.Items {
			out.Items = append(out.Items, *r.convert(&in.Items[i]))
		}
		return out, nil
	}
	raw, err := unwrap(text)
	if err == nil {
		err = fields(raw, func(f field) (err error) {
			switch f.number {
			case 1: // metadata
				err = out.ListMeta.Unmarshal(f.bytes)
			case 2: // items
				out.Items = append(out.Items, slice{})
				err = r.readInto(&out.Items[len(out.Items)-1], f.bytes)
			}
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("reading the list of EndpointSlices: %w", err)
	}
	return out, nil
}

// convert is for what came in JSON.
func (r sliceReader) convert(s *discoveryv1.EndpointSlice) *slice {
	out := &slice{of: endpoints.NewEndpointSlice(s, r.source)}
	for i := range out.of.Labels {
		l := &out.of.Labels[i]
		l.Key, l.Value = r.names.ofString(l.Key), r.names.ofString(l.Value)
	}
	out.ObjectMeta = metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, ResourceVersion: s.ResourceVersion}
	return out
}

// sliceEvents reads a watch. It is a watch.Decoder.
type sliceEvents struct {
	body  io.ReadCloser
	in    *bufio.Reader
	read  sliceReader
	frame []byte
	text  *json.Decoder // of a watch in JSON
}

func (e *sliceEvents) Close() { _ = e.body.Close() }

func (e *sliceEvents) Decode() (watch.EventType, runtime.Object, error) {
	if e.text == nil {
		first, err := e.in.Peek(1)
		if err != nil {
			return "", nil, err
		}
		if first[0] != '{' {
			return e.decodeFrame()
		}
		e.text = json.NewDecoder(e.in)
	}
	var event struct {
		Type   watch.EventType `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := e.text.Decode(&event); err != nil {
		return "", nil, err
	}
	if event.Type == watch.Error {
		status := &metav1.Status{}
		return event.Type, status, json.Unmarshal(event.Object, status)
	}
	in := &discoveryv1.EndpointSlice{}
	if err := json.Unmarshal(event.Object, in); err != nil {
		return "", nil, err
	}
	return known(event.Type, e.read.convert(in))
}

// readBuffer is what is asked of a connection at a time; keepBuffer, how large a buffer is kept for the next event: not one that
// a single large object made.
const (
	readBuffer = 16 << 10
	keepBuffer = 64 << 10
)

// maxFrame is more than any object has, and less than a broken stream may say.
const maxFrame = 64 << 20

// decodeFrame reads an event: four bytes of length, and a metav1.WatchEvent.
func (e *sliceEvents) decodeFrame() (watch.EventType, runtime.Object, error) {
	var head [4]byte
	if _, err := io.ReadFull(e.in, head[:]); err != nil {
		return "", nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		return "", nil, fmt.Errorf("watching EndpointSlices: an event of %d bytes", size)
	}
	if cap(e.frame) < int(size) || cap(e.frame) > max(keepBuffer, int(size)) {
		e.frame = make([]byte, size)
	}
	e.frame = e.frame[:size]
	if _, err := io.ReadFull(e.in, e.frame); err != nil {
		return "", nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	var kind watch.EventType
	var object []byte
	err := fields(e.frame, func(f field) error {
		switch f.number {
		case 1: // type
			kind = watch.EventType(e.read.names.of(f.bytes))
		case 2: // object, a RawExtension of one field
			return fields(f.bytes, func(f field) error {
				if f.number == 1 {
					object = f.bytes
				}
				return nil
			})
		}
		return nil
	})
	if err == nil {
		object, err = unwrap(object)
	}
	if err != nil {
		return "", nil, fmt.Errorf("watching EndpointSlices: %w", err)
	}
	if kind == watch.Error {
		status := &metav1.Status{}
		return kind, status, status.Unmarshal(object)
	}
	out := &slice{}
	if err := e.read.readInto(out, object); err != nil {
		return "", nil, fmt.Errorf("watching EndpointSlices: %w", err)
	}
	return known(kind, out)
}

func known(kind watch.EventType, s *slice) (watch.EventType, runtime.Object, error) {
	switch kind {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		return kind, s, nil
	}
	return "", nil, fmt.Errorf("watching EndpointSlices: there is no event of type %q", kind)
}
