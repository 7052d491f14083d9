package cluster

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	protobufserializer "k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/endpoints"
)

// wired is an object as the API server writes it.
func wired(t require.TestingT, object runtime.Object, gvk schema.GroupVersionKind) []byte {
	object.GetObjectKind().SetGroupVersionKind(gvk)
	var out bytes.Buffer
	require.NoError(t, protobufserializer.NewSerializer(nil, nil).Encode(object, &out))
	return out.Bytes()
}

var (
	slicesGVK  = discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
	statusGVK  = schema.GroupVersionKind{Version: "v1", Kind: "Status"}
	sliceNames = sliceReader{names: &names{}, source: "the API server"}
)

// framed is an event of a watch as the API server writes it.
func framed(t require.TestingT, kind watch.EventType, object []byte) []byte {
	event := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object}}
	body, err := event.Marshal()
	require.NoError(t, err)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func sliceStream(text []byte) *sliceEvents {
	in := io.NopCloser(bytes.NewReader(text))
	return &sliceEvents{body: in, in: bufio.NewReader(in), read: sliceNames}
}

func drawSlice(t *rapid.T) *discoveryv1.EndpointSlice {
	text := func(label string) *string {
		return rapid.SampledFrom([]*string{nil, ptrTo(""), ptrTo("a"), ptrTo("b")}).Draw(t, label)
	}
	truth := func(label string) *bool {
		return rapid.SampledFrom([]*bool{nil, ptrTo(true), ptrTo(false)}).Draw(t, label)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: rapid.String().Draw(t, "name"), Namespace: "shop", UID: "u", ResourceVersion: "7", Generation: 3,
			Labels:        rapid.MapOf(rapid.StringN(1, 5, -1), rapid.String()).Draw(t, "labels"),
			Annotations:   map[string]string{"d": "e"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:a":{}}`)}},
		},
		AddressType: rapid.SampledFrom([]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, ""}).Draw(t, "type"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "ports") {
		p := discoveryv1.EndpointPort{Name: text("port name"), AppProtocol: text("app protocol")}
		if protocol := rapid.SampledFrom([]corev1.Protocol{"", corev1.ProtocolTCP, corev1.ProtocolUDP}).Draw(t, "protocol"); protocol != "" {
			p.Protocol = &protocol
		}
		if rapid.Bool().Draw(t, "numbered") {
			p.Port = ptrTo(rapid.SampledFrom([]int32{-1, 0, 1, 80, 65535, 65536}).Draw(t, "port"))
		}
		slice.Ports = append(slice.Ports, p)
	}
	for range rapid.IntRange(0, 5).Draw(t, "endpoints") {
		e := discoveryv1.Endpoint{
			Addresses:  rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "fd00::1", "::ffff:10.0.0.3", "host", ""}), 0, 3).Draw(t, "addresses"),
			Conditions: discoveryv1.EndpointConditions{Ready: truth("ready"), Serving: truth("serving"), Terminating: truth("terminating")},
			NodeName:   text("node"), Zone: text("zone"), Hostname: text("host"),
			Hints:              &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}},
			DeprecatedTopology: map[string]string{"x": "y"},
		}
		if rapid.Bool().Draw(t, "with a target") {
			e.TargetRef = &corev1.ObjectReference{
				Kind: rapid.SampledFrom([]string{"Pod", "Node", ""}).Draw(t, "kind"), Namespace: "other", Name: rapid.String().Draw(t, "pod"), UID: "x", APIVersion: "v1",
			}
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	return slice
}

func ptrTo[T any](v T) *T { return &v }

// alike compares what was read with what Kubernetes' own types say.
func alike(t require.TestingT, want *discoveryv1.EndpointSlice, got *slice) {
	expected := endpoints.NewEndpointSlice(want, sliceNames.source)
	require.ElementsMatch(t, expected.Labels, got.of.Labels)
	expected.Labels, got.of.Labels = nil, nil
	require.ElementsMatch(t, expected.Ports, got.of.Ports)
	require.ElementsMatch(t, expected.Endpoints, got.of.Endpoints)
	expected.Ports, got.of.Ports, expected.Endpoints, got.of.Endpoints = nil, nil, nil, nil
	require.Equal(t, expected, got.of)
	require.Equal(t, want.Name, got.GetName())
	require.Equal(t, want.Namespace, got.GetNamespace())
	require.Equal(t, want.ResourceVersion, got.GetResourceVersion())
}

// TestReadSlices: whatever the slice, and however it comes, what is read is what Kubernetes' own decoder reads.
func TestReadSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawSlice(t)
		event, err := json.Marshal(map[string]any{"type": "MODIFIED", "object": want})
		require.NoError(t, err)
		for _, text := range [][]byte{event, framed(t, watch.Modified, wired(t, want.DeepCopy(), slicesGVK))} {
			kind, got, err := sliceStream(text).Decode()
			require.NoError(t, err)
			require.Equal(t, watch.Modified, kind)
			alike(t, want, got.(*slice))
		}
		list := &discoveryv1.EndpointSliceList{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more"}, Items: []discoveryv1.EndpointSlice{*want, *want}}
		text, err := json.Marshal(list)
		require.NoError(t, err)
		for _, text := range [][]byte{text, wired(t, list.DeepCopy(), discoveryv1.SchemeGroupVersion.WithKind("EndpointSliceList"))} {
			got, err := sliceNames.readList(text)
			require.NoError(t, err)
			require.Equal(t, list.ListMeta, got.ListMeta)
			require.Len(t, got.Items, 2)
			alike(t, want, &got.Items[0])
			alike(t, want, &got.Items[1])
		}
	})
}

func TestWatchSlices(t *testing.T) {
	bookmark := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "8"}}
	expired := &metav1.Status{Status: metav1.StatusFailure, Message: "too old", Reason: metav1.StatusReasonExpired, Code: 410}
	binary := bytes.Join([][]byte{
		framed(t, watch.Bookmark, wired(t, bookmark, slicesGVK)), framed(t, watch.Error, wired(t, expired, statusGVK)), framed(t, "STRANGE", wired(t, bookmark, slicesGVK)),
	}, nil)
	text := []byte(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}` +
		`{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"too old","reason":"Expired","code":410}}{"type":"STRANGE","object":{}}`)
	for name, stream := range map[string]*sliceEvents{"protobuf": sliceStream(binary), "JSON": sliceStream(text)} {
		t.Run(name, func(t *testing.T) {
			kind, object, err := stream.Decode()
			require.NoError(t, err)
			require.Equal(t, watch.Bookmark, kind)
			require.Equal(t, "8", object.(*slice).GetResourceVersion())
			kind, object, err = stream.Decode()
			require.NoError(t, err)
			require.Equal(t, watch.Error, kind)
			require.True(t, apierrors.IsResourceExpired(statusError(object.(*metav1.Status))))
			_, _, err = stream.Decode()
			require.ErrorContains(t, err, "STRANGE")
			_, _, err = stream.Decode()
			require.ErrorIs(t, err, io.EOF)
		})
	}
	cut := framed(t, watch.Added, wired(t, bookmark, slicesGVK))
	_, _, err := sliceStream(cut[:len(cut)-1]).Decode()
	require.True(t, errors.Is(err, io.ErrUnexpectedEOF))
	_, _, err = sliceStream([]byte{0xff, 0, 0, 0}).Decode()
	require.ErrorContains(t, err, "4278190080 bytes")
}

// What is broken is an error, not a panic.
func FuzzReadSlices(f *testing.F) {
	port := int32(80)
	whole := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"b": "c"}}, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "p"}}},
	}
	f.Add(framed(f, watch.Added, wired(f, whole, slicesGVK)))
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a"}}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _, _ = sliceStream(text).Decode()
		_, _ = sliceNames.readList(text)
	})
}

// BenchmarkReadSlices reads what a start reads: 1,000 slices of 20 endpoints, with what a controller puts in them.
func BenchmarkReadSlices(b *testing.B) {
	var stream []byte
	for i := range 1000 {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("app-%04d", i), Namespace: "default", UID: "0b8e0b7e-7a3b-4a0e-9a3b-2f6f0e2f8a11", ResourceVersion: "123456",
				Labels:        map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("app-%04d", i), endpoints.ServiceProxyLabel: endpoints.ServiceProxyName, discoveryv1.LabelManagedBy: "x"},
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", FieldsV1: metav1.NewFieldsV1(strings.Repeat("x", 600))}},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptrTo("http"), Port: ptrTo(int32(80)), Protocol: ptrTo(corev1.ProtocolTCP)}},
		}
		for j := range 20 {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 128+i>>8, i&255, j+1)},
				Conditions: discoveryv1.EndpointConditions{Ready: ptrTo(true), Serving: ptrTo(true), Terminating: ptrTo(false)},
				NodeName:   ptrTo(fmt.Sprintf("node%02d", j%10)),
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("app-%04d-5f4d8c9c7b-%05d", i, j), UID: "0b8e0b7e-7a3b-4a0e-9a3b-2f6f0e2f8a11"},
			})
		}
		stream = append(stream, framed(b, watch.Added, wired(b, s, slicesGVK))...)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		events := sliceStream(stream)
		for range 1000 {
			if _, _, err := events.Decode(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
