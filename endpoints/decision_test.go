package endpoints

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// A decision changes its server in the Snapshot, and has nothing resolved again.
func TestDecisionResolvesNothing(t *testing.T) {
	r := NewResolver(nil, nil)
	for _, name := range []string{"a", "b"} {
		vs := &v1alpha1.VirtualServer{}
		vs.Namespace, vs.Name, vs.Spec.Service.Name, vs.Spec.Active = "default", name, name, "v1"
		v1alpha1.Default(vs)
		r.SetVirtualServer(NewVirtualServer(vs, name))
	}
	a := types.NamespacedName{Namespace: "default", Name: "a"}
	r.SetDecision(a, &Decision{Number: 1, Active: "v1"})
	before := r.Snapshot()
	require.EqualValues(t, 1, before.Servers[0].Decision.Number)
	require.Nil(t, before.Servers[1].Decision)
	require.Same(t, before, r.Snapshot())
	r.SetDecision(a, &Decision{Number: 1, Active: "v1"})
	require.Same(t, before, r.Snapshot(), "an equal one is none")
	r.SetDecision(a, &Decision{Number: 2, Active: "v2"})
	after := r.Snapshot()
	require.Equal(t, "v2", after.Servers[0].Decision.Active)
	require.Equal(t, "v1", before.Servers[0].Decision.Active, "a Snapshot is immutable")
	require.True(t, before.Servers[0].Refused == after.Servers[0].Refused, "resolved again")
	r.DeleteVirtualServer(a)
	require.Len(t, r.Snapshot().Servers, 1)
}
