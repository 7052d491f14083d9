package v1alpha1_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
)

// TestRandomVerdicts: whatever VirtualServer somebody writes, the manifest reader and the CRD accept or
// refuse it together, and when they accept it they fill in the same.
func TestRandomVerdicts(t *testing.T) {
	server := newAPIServer(t, virtualServers)
	accepted, refused := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		for range 10 { // the checks of one run are few, and an object is cheap
			data, err := json.Marshal(randomObject(rt))
			require.NoError(rt, err)
			file, errs := manifest.Parse("m.json", data)
			stored := parsed(t, data)
			refusal := server.create(stored)
			if (len(errs) > 0) != (refusal != nil) {
				rt.Fatalf("%s\nmanifest: %v\ncrd: %v", data, errs, refusal)
			}
			if refusal != nil {
				refused++
				continue
			}
			accepted++
			require.Equal(rt, file.VirtualServers[0].Spec, decoded(rt, stored, data), "%s", data)
		}
	})
	t.Logf("%d accepted, %d refused", accepted, refused)
	// Were one of the two rare, the comparison would be worth little.
	require.Greater(t, accepted, 100)
	require.Greater(t, refused, 100)
}

// TestRandomTexts is the same for one text at a time, close to what its rule tells apart.
func TestRandomTexts(t *testing.T) {
	server := newAPIServer(t, virtualServers)
	for path, near := range map[string]string{
		"spec.switch.drain.timeout":          `[-+]?([0-9]{0,3}[.]?[0-9]{0,2}[nuµμm]?[smhd]?){0,3}|[-+.0-9nuµmshd ]{0,5}|[0-9]{5,22}[hs]`,
		"spec.switch.hooks.after.url":        nearURL,
		"spec.switch.observe.prometheus.url": nearURL,
		"spec.switch.observe.prometheus.max": nearNumber,
		"spec.switch.force":                  `[-_.a-zA-Z0-9/ é]{0,5}|[a-z.-]{62,64}`,
		"spec.switch.gate.minReady":          `[-+ ]?[0-9]{0,3}[.]?[0-9]?%{0,2}`,
		"spec.switch.gate.nodes":             `[-+ ]?[0-9]{0,3}[.]?[0-9]?%{0,2}|[aA]l{1,3}`,
		"spec.active":                        `[-_.a-zA-Z0-9/ é]{0,5}|[a-z.-]{62,64}`,
		"spec.colourLabel":                   `[-_.a-zA-Z0-9/ é]{0,6}|[a-z.]{0,5}/?[a-zA-Z._-]{60,64}|[a-z.-]{251,254}/a`,
		"spec.service.name":                  `[-a-z0-9A. ]{0,5}|[a-z-]{62,64}`,
		"spec.preview.sources":               `([0-9]{1,3}[.]){2,3}[0-9]{1,3}/[0-9]{1,2}|(10|0)[.](0[.]){2}0/-?[0-9]{1,2}|(::ffff:|2001:db8:)?[0-9a-f:]{0,9}(%eth0)?/[0-9]{0,3}|::ffff:10[.]0[.]0[.]0/[0-9]{1,3}`,
	} {
		t.Run(path, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				for range 4 {
					var value any = rapid.StringMatching(near).Draw(rt, "text")
					obj := least(t)
					if path == "spec.preview.sources" {
						set(obj, "spec.preview", map[string]any{"colour": "v2", "nodePort": 31080})
						value = []any{value}
					}
					if strings.HasPrefix(path, "spec.switch.observe.prometheus.") {
						set(obj, "spec.switch.observe.prometheus", map[string]any{"url": "http://a", "query": "up", "min": "1"})
					}
					set(obj, path, value)
					data, err := json.Marshal(obj)
					require.NoError(rt, err)
					_, errs := manifest.Parse("m.json", data)
					if refusal := server.create(parsed(t, data)); (len(errs) > 0) != (refusal != nil) {
						rt.Fatalf("%q\nmanifest: %v\ncrd: %v", value, errs, refusal)
					}
				}
			})
		})
	}
}

// decoded is the spec of an object that the CRD filled in. Only the empty strings that somebody wrote
// are left to [v1alpha1.Default].
func decoded(t require.TestingT, stored map[string]any, written []byte) v1alpha1.VirtualServerSpec {
	data, err := json.Marshal(stored)
	require.NoError(t, err)
	vs := &v1alpha1.VirtualServer{}
	require.NoError(t, json.Unmarshal(data, vs))
	if hasEmptyString(written) {
		v1alpha1.Default(vs)
	}
	return vs.Spec
}

func hasEmptyString(data []byte) bool {
	return bytes.Contains(data, []byte(`:""`))
}

// dice draws the parts of an object: right ones for the most part, since one that is wrong hides the rest.
type dice struct{ *rapid.T }

var errAbsent = errors.New("absent")

// object draws a mapping of the fields given; one whose value is errAbsent is left out.
func (d dice) object(fields map[string]func() any) any {
	if d.rarely() {
		return d.wrongType()
	}
	out := map[string]any{}
	for _, name := range sorted(fields) {
		if v := fields[name](); v != errAbsent {
			out[name] = v
		}
	}
	if d.rarely() {
		out["unknown"] = 1
	}
	return out
}

func (d dice) rarely() bool { return rapid.IntRange(0, 59).Draw(d.T, "rarely") == 59 }

func (d dice) wrongType() any {
	return rapid.SampledFrom([]any{nil, "", "x", 0, 7, -1, 1.5, true, []any{}, map[string]any{}, []any{nil}, int64(1) << 40}).Draw(d.T, "wrong")
}

// field draws one of values, now and then something else, and, where it may be left out, often nothing.
func (d dice) field(optional bool, values ...any) func() any {
	return func() any {
		switch {
		case d.rarely():
			return d.wrongType()
		case optional && rapid.Bool().Draw(d.T, "absent"):
			return errAbsent
		case d.rarely():
			// What YAML does not let into a text is told apart before there is an object.
			return rapid.StringOf(rapid.RuneFrom(nil, unicode.PrintRanges...)).Draw(d.T, "text")
		}
		return rapid.SampledFrom(values).Draw(d.T, "value")
	}
}

// text is field for what matches an expression, close to what is right but not always.
func (d dice) text(optional bool, expression string, values ...any) func() any {
	return func() any {
		if !d.rarely() {
			return d.field(optional, values...)()
		}
		return rapid.StringMatching(expression).Draw(d.T, "near")
	}
}

func (d dice) list(most int, item func() any) func() any {
	return func() any {
		if rapid.Bool().Draw(d.T, "absent") {
			return errAbsent
		}
		out := []any{}
		for range rapid.IntRange(0, most).Draw(d.T, "length") {
			if v := item(); v != errAbsent {
				out = append(out, v)
			}
		}
		return out
	}
}

// maybe leaves a mapping out half of the time.
func (d dice) maybe(fields map[string]func() any) func() any {
	return func() any {
		if rapid.Bool().Draw(d.T, "absent") {
			return errAbsent
		}
		return d.object(fields)
	}
}
