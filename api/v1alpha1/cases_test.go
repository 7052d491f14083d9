package v1alpha1_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/endpoints/manifest"
	"github.com/pointsman/pointsman/internal/apicases"
)

// TestCases: what the manifest reader refuses, the CRD refuses, and in words that help.
func TestCases(t *testing.T) {
	server := newAPIServer(t, virtualServers)
	cases, err := apicases.Load()
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	for _, c := range cases {
		t.Run(c.Name+"/manifest", func(t *testing.T) {
			_, errs := manifest.Parse("m.yaml", c.Manifest)
			var text string
			for _, e := range errs {
				text += e.Error() + "\n"
			}
			judge(t, c.Valid(), text, c.FromManifest())
		})
		t.Run(c.Name+"/crd", func(t *testing.T) {
			var text string
			if err := server.create(object(t, c.Manifest)); err != nil {
				text = err.Error()
			}
			judge(t, c.Valid(), text, c.FromAPIServer())
		})
	}
}

func judge(t *testing.T, valid bool, refusal string, want []string) {
	t.Helper()
	if valid {
		assert.Empty(t, refusal)
		return
	}
	assert.NotEmpty(t, refusal, "is accepted")
	for _, piece := range want {
		assert.Contains(t, refusal, piece)
	}
}

// object is what an API server is sent for a manifest.
func object(t testing.TB, manifest []byte) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict(manifest)
	require.NoError(t, err)
	return parsed(t, data)
}

func parsed(t testing.TB, data []byte) map[string]any {
	t.Helper()
	var obj map[string]any
	require.NoError(t, kjson.Unmarshal(data, &obj))
	return obj
}
