package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

func drawServer(rt *rapid.T) endpoints.Server {
	vs := &v1alpha1.VirtualServer{}
	vs.Spec.Active = rapid.SampledFrom([]string{"v1", "<v2>"}).Draw(rt, "active")
	if rapid.Bool().Draw(rt, "preview") {
		vs.Spec.Preview = &v1alpha1.Preview{Colour: "v2", NodePort: new(int32(31080)), Sources: []string{"192.0.2.0/24"}}
	}
	if rapid.Bool().Draw(rt, "observe") {
		vs.Spec.Switch.Observe = &v1alpha1.Observe{}
	}
	v1alpha1.Default(vs)
	s := endpoints.Server{
		Key:  types.NamespacedName{Namespace: "default", Name: rapid.StringMatching(`[a-z]{1,8}`).Draw(rt, "name")},
		Spec: &vs.Spec, Digest: "u/3", Generation: 3, UID: "u",
	}
	if rapid.Bool().Draw(rt, "refused") {
		s.Refused = &endpoints.Refusal{Reason: "R", Message: "a \"message\" & more"}
		return s
	}
	s.Affinity = rapid.Uint32().Draw(rt, "affinity")
	s.Ports = []endpoints.Port{{Name: "http", Protocol: "TCP", Ways: []endpoints.Way{
		{Kind: endpoints.NodePort, Addr: netip.IPv6Unspecified(), Port: 30080, LocalOnly: true},
		{Kind: endpoints.ClusterIP, Addr: netip.MustParseAddr("10.96.0.1"), Port: 80},
	}, Endpoints: []endpoints.Endpoint{}}}
	for i := range rapid.IntRange(0, 3).Draw(rt, "endpoints") {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, endpoints.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 8080, Colour: "v1", Node: "n1",
			Ready: rapid.Bool().Draw(rt, "ready"), Serving: true, Terminating: rapid.Bool().Draw(rt, "terminating"),
		})
	}
	return s
}

// TestSavedRoundTrip: what is read back is what was in force.
func TestSavedRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), stateFile)
	rapid.Check(t, func(rt *rapid.T) {
		snap := &endpoints.Snapshot{Servers: rapid.SliceOfN(rapid.Custom(drawServer), 0, 5).Draw(rt, "servers")}
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		require.NoError(rt, newSaved(path).write(snap, at))
		d := newSaved(path)
		require.NoError(rt, d.load())
		require.Equal(rt, snap, d.loaded)
		require.Equal(rt, at, d.loadedOf)
		before, err := os.Stat(path)
		require.NoError(rt, err)
		require.NoError(rt, d.write(snap, at.Add(time.Hour)))
		after, err := os.Stat(path)
		require.NoError(rt, err)
		require.True(rt, os.SameFile(before, after), "written though nothing changed")
	})
}

// TestSavedFormat reads a file of version 1. Whoever has to change it must raise stateVersion.
func TestSavedFormat(t *testing.T) {
	d := newSaved(filepath.Join("testdata", "snapshot-v1.json"))
	require.NoError(t, d.load())
	require.Len(t, d.loaded.Servers, 2)
	again := newSaved(filepath.Join(t.TempDir(), stateFile))
	require.NoError(t, again.write(d.loaded, d.loadedOf))
	want, err := os.ReadFile(d.path)
	require.NoError(t, err)
	got, err := os.ReadFile(again.path)
	require.NoError(t, err)
	assert.JSONEq(t, string(want), string(got))
}

// TestSavedWithoutSpec: what somebody has been at is no state.
func TestSavedWithoutSpec(t *testing.T) {
	d := newSaved(filepath.Join(t.TempDir(), stateFile))
	require.NoError(t, os.WriteFile(d.path, []byte(`{"version":1,"servers":[{"Key":{"Namespace":"default","Name":"myapp"},"Spec":null}]}`), 0o600))
	require.ErrorContains(t, d.load(), "VirtualServer default/myapp has no Spec")
	require.Nil(t, d.loaded)
}

// TestSavedSeldom: many Snapshots are few writes, and the last is one of them.
func TestSavedSeldom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), stateFile)
	d := newSaved(path)
	log, _ := test.NewNullLogger()
	done := make(chan struct{})
	ctx := t.Context()
	go func() { d.keep(ctx, endpoints.NewPublisher(log)); close(done) }()
	writes, last := 0, ""
	for i := range 200 {
		d.next(&endpoints.Snapshot{Servers: []endpoints.Server{{Spec: &v1alpha1.VirtualServerSpec{}, Generation: int64(i)}}})
		time.Sleep(10 * time.Millisecond)
		if data, err := os.ReadFile(path); err == nil && string(data) != last {
			last = string(data)
			writes++
		}
	}
	assert.LessOrEqual(t, writes, 4)
	assert.NotZero(t, writes)
	require.Eventually(t, func() bool {
		d := newSaved(path)
		return d.load() == nil && d.loaded.Servers[0].Generation == 199
	}, saveMost+soon, 20*time.Millisecond)
}
