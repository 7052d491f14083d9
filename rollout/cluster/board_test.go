package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

func leaseOf(node string, renewed time.Time) *coordinationv1.Lease {
	seconds, at := int32(40), metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: DefaultNamespace, Name: nodeLeaseName(node), Labels: map[string]string{leaseLabel: leaseLabelNode}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &at},
	}
}

func reportWith(node string, entries ...v1alpha1.NodeVirtualServer) *v1alpha1.NodeReport {
	return &v1alpha1.NodeReport{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1alpha1.NodeReportStatus{VirtualServers: entries}}
}

func entry(name, active string) v1alpha1.NodeVirtualServer {
	return v1alpha1.NodeVirtualServer{Namespace: "default", Name: name, Generation: 1, Active: active, Verified: true, Decision: 99}
}

func TestBoardTellsWhatChanged(t *testing.T) {
	key := func(name string) types.NamespacedName {
		return types.NamespacedName{Namespace: "default", Name: name}
	}
	b := newBoard()
	var entries []v1alpha1.NodeVirtualServer
	for i := range 1000 {
		entries = append(entries, entry(fmt.Sprintf("app%04d", i), "v1"))
	}
	_, all := b.report("a", reportWith("a", entries...))
	require.True(t, all)
	next := reportWith("a", entries...).DeepCopy()
	next.Status.VirtualServers[7].Active = "v2"
	next.Status.VirtualServers[8].Draining = []v1alpha1.ColourDrain{{Colour: "v0", Connections: 9}}
	changed, all := b.report("a", next)
	require.False(t, all)
	require.Equal(t, []types.NamespacedName{key("app0007"), key("app0008")}, changed)

	next = next.DeepCopy()
	next.Status.VirtualServers[8].Draining[0].Connections = 3
	changed, all = b.report("a", next)
	require.Empty(t, changed, "counts alone")
	require.False(t, all)

	next = next.DeepCopy()
	next.Status.VirtualServers = append([]v1alpha1.NodeVirtualServer{entry("zz", "v1")}, next.Status.VirtualServers[1:]...) // unsorted too
	changed, _ = b.report("a", next)
	require.Equal(t, []types.NamespacedName{key("app0000"), key("zz")}, changed)
	_, dead := b.view(key("zz"))
	require.Equal(t, "v1", dead[0].Entry.Active)
	next = next.DeepCopy()
	next.Status.Error = "failed"
	_, all = b.report("a", next)
	require.True(t, all)
}

func TestBoardTellsWhoLives(t *testing.T) {
	names := func(b *board) (out string) {
		live, dead := b.view(types.NamespacedName{Namespace: "default", Name: "x"})
		for _, n := range live {
			out += n.Name
		}
		out += "|"
		for _, n := range dead {
			out += n.Name
		}
		return out
	}
	b := newBoard()
	for _, n := range []string{"b", "a", "c", "d"} {
		b.report(n, reportWith(n))
	}
	b.report("e", nil)
	require.Equal(t, "|abcd", names(b))
	require.True(t, b.renewed(leaseOf("a", noon), noon.Add(10*time.Second)))
	require.False(t, b.renewed(leaseOf("b", noon.Add(-time.Hour)), noon.Add(10*time.Second)), "ran out long ago")
	require.True(t, b.renewed(leaseOf("c", noon.Add(time.Hour)), noon.Add(10*time.Second)), "by a fast clock")
	require.Equal(t, "ac|bd", names(b))
	require.Equal(t, 29*time.Second, b.calm(noon.Add(11*time.Second), time.Minute), "a is the next, c is held from when it was seen")
	require.Equal(t, 10*time.Second, b.calm(noon.Add(11*time.Second), 10*time.Second))
	require.Zero(t, b.calm(noon.Add(41*time.Second), time.Minute))
	require.False(t, b.expire(noon.Add(39*time.Second)))
	require.True(t, b.expire(noon.Add(41*time.Second)), "a ran out")
	require.True(t, b.expire(noon.Add(51*time.Second)), "c: its clock does not count, ours does")
	require.Equal(t, "|abcd", names(b))
	require.Equal(t, time.Minute, b.calm(noon.Add(51*time.Second), time.Minute), "nobody lives")
	require.True(t, b.renewed(leaseOf("b", noon.Add(-59*time.Minute)), noon.Add(time.Minute)), "by a slow clock, and renewed")
	require.Equal(t, "b|acd", names(b))
	require.True(t, b.released(leaseOf("b", noon)))
	b.report("b", nil)
	require.Equal(t, "|acd", names(b))
	require.Len(t, b.nodes, 3)

	// A daemon that was killed before its first report: nobody can know where it was, so it is not named.
	require.True(t, b.renewed(leaseOf("f", noon), noon))
	require.Equal(t, "f|acd", names(b))
	require.True(t, b.expire(noon.Add(time.Hour)))
	require.Equal(t, "|acd", names(b))
	b.report("f", reportWith("f"))
	require.Equal(t, "|acdf", names(b))
}
