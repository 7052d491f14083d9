package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
)

// TestBounds: the longest text and list that the manifest reader takes is the longest that the CRD
// takes. Longer than that, both refuse and name the field.
func TestBounds(t *testing.T) {
	server := newAPIServer(t, virtualServers)
	text := func(pattern string) func(int) any {
		return func(n int) any {
			return strings.ReplaceAll(pattern, "…", strings.Repeat("é", n-len(pattern)+len("…")))
		}
	}
	ascii := func(n int) any { return strings.Repeat("a", n) }
	for path, c := range map[string]struct {
		limit int
		make  func(n int) any // a value of length n
	}{
		"spec.service.name":                     {63, ascii},
		"spec.active":                           {63, ascii},
		"spec.preview.colour":                   {63, ascii},
		"spec.colourLabel":                      {317, func(n int) any { return strings.Repeat("a.", 126) + "a/" + strings.Repeat("a", n-254) }},
		"spec.preview.sources":                  {v1alpha1.MaxPreviewSources, func(n int) any { return strings.Split(strings.Repeat("::/0,", n-1)+"::/0", ",") }},
		"spec.switch.drain.timeout":             {v1alpha1.MaxDurationText, func(n int) any { return strings.Repeat("0", n-len([]rune("1µs"))) + "1µs" }},
		"spec.switch.steps":                     {99, steps},
		"spec.switch.gate.probe.http.path":      {v1alpha1.MaxProbePath, text("/…")},
		"spec.switch.gate.probe.http.host":      {v1alpha1.MaxProbeHost, text("…")},
		"spec.switch.gate.probe.http.body":      {v1alpha1.MaxProbeBody, text("…")},
		"spec.switch.gate.probe.tls.serverName": {v1alpha1.MaxProbeServerName, text("…")},
		"spec.switch.gate.probe.grpc.service":   {v1alpha1.MaxProbeService, text("…")},
		"spec.switch.force":                     {63, ascii},
		"spec.switch.hooks.before.url":          {v1alpha1.MaxURL, func(n int) any { return "http://a/" + strings.Repeat("a", n-len("http://a/")) }},
		"spec.switch.observe.prometheus.url":    {v1alpha1.MaxURL, func(n int) any { return "http://a/" + strings.Repeat("a", n-len("http://a/")) }},
		"spec.switch.observe.prometheus.query":  {v1alpha1.MaxQuery, text("…")},
		"spec.switch.observe.prometheus.min":    {v1alpha1.MaxBoundText, func(n int) any { return strings.Repeat("1", n) }},
		"spec.switch.observe.prometheus.max":    {v1alpha1.MaxBoundText, func(n int) any { return strings.Repeat("1", n) }},
	} {
		for _, over := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s+%d", path, over), func(t *testing.T) {
				obj := least(t)
				if strings.HasPrefix(path, "spec.preview.") {
					set(obj, "spec.preview", map[string]any{"colour": "v2", "nodePort": 31080})
				}
				if strings.HasPrefix(path, "spec.switch.observe.prometheus.") {
					set(obj, "spec.switch.observe.prometheus", map[string]any{"url": "http://a", "query": "up", "max": "1"})
				}
				set(obj, path, c.make(c.limit+over))
				data, err := json.Marshal(obj)
				require.NoError(t, err)
				_, errs := manifest.Parse("m.json", data)
				refusal := server.create(parsed(t, data))
				if over == 0 {
					assert.Empty(t, errs)
					assert.NoError(t, refusal)
					return
				}
				if assert.NotEmpty(t, errs, "the manifest reader takes it") {
					assert.Contains(t, errs[0].Error(), path)
				}
				assert.ErrorContains(t, refusal, path)
			})
		}
	}
}

// least is a VirtualServer with nothing that may be left out.
func least(t testing.TB) map[string]any {
	t.Helper()
	return object(t, []byte("{apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp, namespace: default}, spec: {service: {name: myapp}, active: v1}}"))
}

func steps(n int) any {
	var out []any
	for i := range n {
		out = append(out, map[string]any{"weight": min(i+1, 99), "hold": "1m"})
	}
	return out
}

// set puts a value at a path of mappings, making those that are missing.
func set(obj map[string]any, path string, value any) {
	steps := strings.Split(path, ".")
	for _, step := range steps[:len(steps)-1] {
		inner, ok := obj[step].(map[string]any)
		if !ok {
			inner = map[string]any{}
			obj[step] = inner
		}
		obj = inner
	}
	obj[steps[len(steps)-1]] = value
}
