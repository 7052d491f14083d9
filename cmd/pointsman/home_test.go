package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// What commands change in a manifest is the values that they are about.
func TestManifestKeepsTheRest(t *testing.T) {
	p := newManifestPlace(t, "").(*manifestPlace)
	p.start()
	t.Cleanup(p.stop)
	comesTo(t, p, v1alpha1.PhaseSteady)
	text := func() string {
		data, err := os.ReadFile(p.file())
		require.NoError(t, err)
		return string(data)
	}
	before := text()
	does(t, p, 0, "switch", "myapp", "v2", "--force", "--wait")
	require.Equal(t, strings.Replace(before, "active: v1 # today\n", "active: v2 # today\n  switch: {force: v2}\n", 1), text())
	does(t, p, 0, "switch", "myapp", "v1", "--wait")
	require.Equal(t, strings.Replace(before, "# today\n", "# today\n  switch: {force: \"\"}\n", 1), text())
	does(t, p, 0, "pause", "myapp")
	does(t, p, 0, "resume", "myapp")
	require.Equal(t, strings.Replace(before, "# today\n", "# today\n  switch: {paused: false, force: \"\"}\n", 1), text())
}

// What commands change of an object is fields of its spec, in one patch each that holds for the object as it was seen;
// a status that is written meanwhile is no obstacle, another declaration is.
func TestObjectIsPatched(t *testing.T) {
	p := newClusterPlace(t, "{steps: [{weight: 10, hold: 1h}]}").(*clusterPlace)
	p.start()
	t.Cleanup(p.stop)
	comesTo(t, p, v1alpha1.PhaseSteady)
	patched := func() (spec string) {
		patches := p.api.Patches()
		require.NotEmpty(t, patches)
		var last struct {
			Metadata map[string]string `json:"metadata"`
			Spec     map[string]any    `json:"spec"`
		}
		decoder := json.NewDecoder(strings.NewReader(patches[len(patches)-1]))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&last))
		require.Equal(t, "u1", last.Metadata["uid"])
		require.NotEmpty(t, last.Metadata["resourceVersion"])
		require.Len(t, last.Metadata, 2)
		text, err := json.Marshal(last.Spec)
		require.NoError(t, err)
		return string(text)
	}
	does(t, p, 0, "switch", "myapp", "v2")
	require.JSONEq(t, `{"active": "v2"}`, patched())
	comesTo(t, p, v1alpha1.PhaseStepping)
	does(t, p, 0, "pause", "myapp")
	require.JSONEq(t, `{"switch": {"paused": true}}`, patched())
	does(t, p, 0, "resume", "myapp")
	require.JSONEq(t, `{"switch": {"paused": null}}`, patched())
	does(t, p, 0, "switch", "myapp", "v2", "--force", "--wait")
	require.JSONEq(t, `{"switch": {"force": "v2"}}`, patched())
	does(t, p, 0, "switch", "myapp", "v1", "--wait")
	require.JSONEq(t, `{"active": "v1", "switch": {"force": null}}`, patched())
	count := len(p.api.Patches())
	does(t, p, 0, "switch", "myapp", "v1")
	require.Len(t, p.api.Patches(), count, "what is so already is not written")

	meanwhile := func(do func(*v1alpha1.VirtualServer)) {
		times := 2
		p.api.SetRefuse(func(verb, _ string) error {
			if verb != "patch" || times == 0 {
				return nil
			}
			times--
			vs := p.object()
			do(&vs)
			p.api.Apply(t, "virtualservers", &vs)
			return nil
		})
	}
	meanwhile(func(vs *v1alpha1.VirtualServer) { vs.Status.Colours[0].Endpoints++ })
	does(t, p, 0, "switch", "myapp", "v2")
	require.Len(t, p.api.Patches(), count+3, "two were in vain")
	require.Equal(t, "v2", p.spec().Active)
	meanwhile(func(vs *v1alpha1.VirtualServer) { vs.Spec.Active, vs.Generation = "v9", vs.Generation+1 })
	_, stderr := does(t, p, exitFailed, "abort", "myapp")
	require.Contains(t, stderr, "VirtualServer default/myapp was changed by somebody else meanwhile (active: v9); look again")
	require.Equal(t, "v9", p.spec().Active)
}
