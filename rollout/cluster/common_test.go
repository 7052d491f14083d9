package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// What is shared says what came, and stays so whatever comes after it.
func TestCommonIsWhatCame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all, came []*v1alpha1.VirtualServer
		var c common
		for i := range rapid.IntRange(0, 5).Draw(t, "servers") {
			vs := server(fmt.Sprintf("app-%d", i), rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "active"), 1)
			if rapid.Bool().Draw(t, "stepped") {
				vs.Spec.Switch.Steps = []v1alpha1.Step{{Weight: rapid.Int32Range(1, 2).Draw(t, "weight"), Hold: &metav1.Duration{Duration: time.Second}}}
			}
			for _, name := range rapid.SampledFrom([][]string{nil, {"v1"}, {"v1", "v2"}}).Draw(t, "colours") {
				vs.Status.Colours = append(vs.Status.Colours, v1alpha1.ColourStatus{Name: name, Endpoints: 2})
			}
			if rapid.Bool().Draw(t, "told") {
				vs.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: "True", LastTransitionTime: metav1.NewTime(noon), Reason: rapid.SampledFrom([]string{"Accepted", "Pending"}).Draw(t, "reason")}}
			}
			all, came = append(all, vs), append(came, vs.DeepCopy())
			c.share(vs)
		}
		for i := range all {
			require.Equal(t, came[i], all[i])
		}
	})
}

func TestCommonIsShared(t *testing.T) {
	var c common
	one := func(name string) *v1alpha1.VirtualServer {
		vs := server(name, "v1", 1)
		vs.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: "True", LastTransitionTime: metav1.NewTime(noon)}}
		vs.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
		c.share(vs)
		return vs
	}
	a, b := one("a"), one("b")
	require.Same(t, a.Spec.Switch.Drain.Timeout, b.Spec.Switch.Drain.Timeout)
	require.Same(t, &a.Status.Conditions[0], &b.Status.Conditions[0])
	require.Equal(t, []string{"a", "b"}, []string{a.Spec.Service.Name, b.Spec.Service.Name})
	require.Empty(t, b.Annotations, "which a status is not written with")
}
