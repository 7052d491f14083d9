package cluster

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pointsman/pointsman/endpoints"
)

const (
	wireGood = `{"apiVersion":"pointsman.io/v1alpha1","kind":"VirtualServer","metadata":{"name":"myapp","namespace":"shop","uid":"u1",
		"resourceVersion":"7","generation":3,"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"a":"b"},
		"managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{".":{}}}}]},
		"spec":{"service":{"name":"web"},"active":"v1"},"status":{"active":"v1","conditions":[{"type":"Accepted","status":"True","message":"}"}]}}`
	wireWrong = `{"metadata":{"name":"wrong","namespace":"shop","uid":"u2","generation":1},"spec":{"service":"web","active":"v1"}}`
	wireEmpty = `{"metadata":{"name":"empty","namespace":"shop","uid":"u3","generation":1}}`
)

func TestReadVirtualServers(t *testing.T) {
	list, err := readList([]byte(`{"kind":"VirtualServerList","metadata":{"resourceVersion":"9","continue":"more"},"items":[` +
		wireGood + "," + wireWrong + "," + wireEmpty + `]}`))
	require.NoError(t, err)
	require.Equal(t, metav1.ListMeta{ResourceVersion: "9", Continue: "more"}, list.ListMeta)
	require.Len(t, list.Items, 3)
	good := &list.Items[0]
	require.Equal(t, metav1.ObjectMeta{Name: "myapp", Namespace: "shop", UID: "u1", ResourceVersion: "7", Generation: 3}, good.ObjectMeta)

	vs := specs{}.declare(good)
	require.Nil(t, vs.Invalid)
	require.Equal(t, types.NamespacedName{Namespace: "shop", Name: "web"}, vs.ServiceKey())
	require.Equal(t, "v1", vs.Spec.Active)
	require.Equal(t, "version", vs.Spec.ColourLabel, "defaults are filled in")
	require.Equal(t, "u1/3", vs.Digest)
	// One that does not decode is refused by itself, and spoils nothing.
	vs = specs{}.declare(&list.Items[1])
	require.Equal(t, endpoints.ReasonInvalid, vs.Invalid.Reason)
	require.Contains(t, vs.Invalid.Message, "spec: service")
	require.NotNil(t, specs{}.declare(&list.Items[2]).Invalid)

	_, err = readList([]byte(`{"items":[{]}`))
	require.ErrorContains(t, err, "reading the list of VirtualServers")
}

func TestWatchVirtualServers(t *testing.T) {
	stream := newEvents(io.NopCloser(strings.NewReader(`{"type":"ADDED","object":` + wireGood + "}\n" +
		`{"type":"BOOKMARK","object":{"kind":"VirtualServer","metadata":{"resourceVersion":"8"}}}` + "\n" +
		`{"type":"DELETED","object":` + wireWrong + "}\n" +
		`{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"too old","reason":"Expired","code":410}}` + "\n" +
		`{"type":"STRANGE","object":{}}`)))
	next := func(want watch.EventType) any {
		t.Helper()
		kind, object, err := stream.Decode()
		require.NoError(t, err)
		require.Equal(t, want, kind)
		return object
	}
	require.Equal(t, "myapp", next(watch.Added).(*declared).Name)
	require.Equal(t, "8", next(watch.Bookmark).(*declared).ResourceVersion)
	require.Equal(t, "wrong", next(watch.Deleted).(*declared).Name)
	require.True(t, apierrors.IsResourceExpired(statusError(next(watch.Error).(*metav1.Status))))
	_, _, err := stream.Decode()
	require.ErrorContains(t, err, "STRANGE")
	_, _, err = stream.Decode()
	require.True(t, errors.Is(err, io.EOF))
}

// BenchmarkWatchVirtualServers reads what a start reads: 1,000 of them, with a status and managed fields.
func BenchmarkWatchVirtualServers(b *testing.B) {
	event := strings.ReplaceAll(`{"type":"ADDED","object":`+wireGood, "\n", "")
	event = strings.Replace(event, `"f:spec":{`, `"f:spec":{`+strings.Repeat(`"f:service":{"f:name":{}},"f:active":{},`, 12), 1) + "}\n"
	event = strings.Replace(event, `"conditions":[`, `"conditions":[`+strings.Repeat(`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the declaration is accepted","observedGeneration":1,"reason":"Accepted","status":"True","type":"Accepted"},`, 5), 1)
	stream := strings.Repeat(event, 1000)
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		events := newEvents(io.NopCloser(strings.NewReader(stream)))
		for range 1000 {
			if _, _, err := events.Decode(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// What is remembered of other specs changes nothing of what a spec says.
func TestSpecs(t *testing.T) {
	texts := []string{
		`{"service":{"name":"a"},"active":"v1"}`, `{"service":{"name":"b"},"active":"v1"}`, `{"active":"v1","service":{"name":"b"}}`,
		`{"service":{"name":"b"},"active":"v2"}`, `{"service":{"name":"c"},"active":"v2","switch":{"observe":{"window":"5m"},"steps":[{"weight":5}]}}`,
		`{"service":{"name":"d"},"active":"v2","switch":{"observe":{"window":"5m"},"steps":[{"weight":5}]}}`,
		`{"service":{"name":7},"active":"v1"}`, `{"service":"web","active":"v1"}`, `{"service":null,"active":"v1"}`, `{"active":"v1"}`, `null`, `{}`, ``, `[]`,
		`{"service":{"name":"a"},"active":7}`, `{"service":{"name":"a"},"service":{"name":"b"},"active":"v1"}`, `{"service":{"name":"a","Name":"b"},"active":"v1"}`,
		`{"service":{"name":"UPPER"},"active":"v1"}`, `{"service":{"name":"a"},"active":"v1"}}`,
	}
	remembering := specs{}
	for range 2 {
		for _, text := range texts {
			d := &declared{spec: []byte(text)}
			if text == "" {
				d.spec = nil
			}
			require.Equal(t, specs(nil).declare(d), remembering.declare(d), text)
		}
	}
	require.NotEmpty(t, remembering)
	one, two := &declared{spec: []byte(texts[4])}, &declared{spec: []byte(texts[5])}
	require.Same(t, remembering.declare(one).Spec.Switch.Observe, remembering.declare(two).Spec.Switch.Observe, "in memory once")
}
