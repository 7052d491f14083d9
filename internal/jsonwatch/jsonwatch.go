// Package jsonwatch reads watches that come as JSON, as those of custom resources do, in one go: client-go's decoders go over
// the text of each event some seven times.
package jsonwatch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/pointsman/pointsman/internal/jsontext"
)

// Stream begins a watch that is read by a decoder of our own.
func Stream(ctx context.Context, get *rest.Request, decoder func(io.ReadCloser) watch.Decoder) (watch.Interface, error) {
	body, err := get.Stream(ctx)
	switch {
	case err == nil:
		return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), decoder(body), apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "WatchDecoding")), nil
	case utilnet.IsProbableEOF(err), utilnet.IsTimeout(err):
		return watch.NewEmptyWatch(), nil // as client-go's own: what was begun is tried again at once
	}
	return nil, err
}

// Events reads a watch. It is a watch.Decoder.
type Events struct {
	kind string // of the objects, in words
	read func(raw []byte) (runtime.Object, error)
	body io.ReadCloser
	in   *bufio.Reader
	have []byte // that was read and is not decoded yet
}

// readBuffer is what is asked of a connection at a time.
const readBuffer = 16 << 10

// keepBuffer is how large a buffer is kept for the next event: not one that a single large object made.
const keepBuffer = 64 << 10

// NewEvents reads body. Of each event, read gets the object as it stands, which may be used for something else afterwards.
func NewEvents(body io.ReadCloser, kind string, read func(raw []byte) (runtime.Object, error)) *Events {
	return &Events{kind: kind, read: read, body: body, in: bufio.NewReaderSize(body, readBuffer)}
}

// Close ends the watch.
func (e *Events) Close() { _ = e.body.Close() }

// Decode takes the next event. An API server writes each on a line; what does not is read again with each of its lines.
func (e *Events) Decode() (watch.EventType, runtime.Object, error) {
	for {
		if e.have = bytes.TrimLeft(e.have, " \t\r\n"); len(e.have) > 0 {
			t := jsontext.NewText(e.have)
			kind, object, err := e.event(t)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				e.have = append(e.have[:0], t.Rest()...)
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

func (e *Events) event(t *jsontext.Text) (kind watch.EventType, object runtime.Object, err error) {
	var raw []byte
	if err := t.Object(func(key []byte) (err error) {
		switch string(key) {
		case "type":
			err = t.Value((*string)(&kind))
		case "object":
			raw, err = t.Raw()
		default:
			err = t.Skip()
		}
		return err
	}); err != nil {
		return "", nil, err
	}
	switch kind {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		object, err := e.read(raw)
		if err != nil {
			return "", nil, fmt.Errorf("watching %s: %s", e.kind, err) // not that it is cut off: raw is whole
		}
		return kind, object, nil
	case watch.Error:
		s := &metav1.Status{}
		return kind, s, json.Unmarshal(raw, s)
	}
	return "", nil, fmt.Errorf("watching %s: there is no event of type %q", e.kind, kind)
}
