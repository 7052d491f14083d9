package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// What is read of an EndpointSlice is there after it was trimmed, however often that was done.
func TestTrimSliceKeepsWhatIsRead(t *testing.T) {
	boolean := func(t *rapid.T) *bool { return rapid.SampledFrom([]*bool{nil, new(bool), &yes}).Draw(t, "condition") }
	rapid.Check(t, func(t *rapid.T) {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Name: "a", Namespace: "b", UID: "c", Annotations: map[string]string{"d": "e"},
			Labels: rapid.MapOf(rapid.StringN(1, 5, -1), rapid.String()).Draw(t, "labels"),
		}}
		for range rapid.IntRange(0, 5).Draw(t, "endpoints") {
			e := discoveryv1.Endpoint{
				Addresses:  rapid.SliceOfN(rapid.StringN(0, 5, -1), 0, 3).Draw(t, "addresses"),
				Conditions: discoveryv1.EndpointConditions{Ready: boolean(t), Serving: boolean(t), Terminating: boolean(t)},
				Zone:       &[]string{"zone"}[0],
			}
			if rapid.Bool().Draw(t, "with a node") {
				e.NodeName = &[]string{rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")}[0]
			}
			if rapid.Bool().Draw(t, "with a pod") {
				e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: rapid.String().Draw(t, "pod"), UID: "x"}
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		before := slice.DeepCopy()
		for range rapid.IntRange(1, 2).Draw(t, "times") {
			trimmed, err := trimSlice(slice)
			require.NoError(t, err)
			require.Same(t, slice, trimmed)
		}
		require.Equal(t, before.Labels, slice.Labels)
		require.Empty(t, slice.Annotations)
		require.Len(t, slice.Endpoints, len(before.Endpoints))
		for i, have := range slice.Endpoints {
			want := before.Endpoints[i]
			require.Len(t, have.Addresses, len(want.Addresses))
			for j := range want.Addresses {
				require.Equal(t, want.Addresses[j], have.Addresses[j])
			}
			require.Equal(t, want.Conditions, have.Conditions)
			require.Equal(t, want.NodeName, have.NodeName)
			require.Nil(t, have.Zone)
			require.Equal(t, want.TargetRef == nil, have.TargetRef == nil)
			if want.TargetRef != nil {
				require.Equal(t, corev1.ObjectReference{Kind: "Pod", Name: want.TargetRef.Name}, *have.TargetRef)
			}
		}
	})
}
