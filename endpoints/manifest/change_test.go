package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

// Fields that are there change their value, others are added where an eye looks for them, and comments stay.
func TestEditSwitch(t *testing.T) {
	force, pause := Change{Active: ptr("v2"), Force: ptr("v2")}, Change{Paused: ptr(true)}
	for name, c := range map[string]struct {
		before, after string
		change        Change
	}{
		"no switch":           {head + "  active: v1 # now\n", head + "  active: v2 # now\n  switch: {force: v2}\n", force},
		"no end of line":      {head + "  active: v1", head + "  active: v2\n  switch: {force: v2}", force},
		"no switch, paused":   {head + "  active: v1\n  forwarding: direct\n", head + "  active: v1\n  switch: {paused: true}\n  forwarding: direct\n", pause},
		"block":               {head + "  active: v1\n  switch: # how\n    # the gate\n    gate: {minReady: 1}\n", head + "  active: v2\n  switch: # how\n    force: v2\n    # the gate\n    gate: {minReady: 1}\n", force},
		"flow":                {head + "  active: v1\n  switch: {gate: {minReady: 1}} # x\n", head + "  active: v1\n  switch: {paused: true, gate: {minReady: 1}} # x\n", pause},
		"empty flow":          {head + "  active: v1\n  switch: {}\n", head + "  active: v1\n  switch: {paused: true}\n", pause},
		"flow over lines":     {head + "  active: v1\n  switch: {\n    # a\n    gate: {}\n  }\n", head + "  active: v1\n  switch: {paused: true, \n    # a\n    gate: {}\n  }\n", pause},
		"number":              {head + "  active: v1\n", head + "  active: v1\n  switch: {force: \"1.10\"}\n", Change{Force: ptr("1.10")}},
		"taken back":          {head + "  active: v2\n  switch:\n    force: v2 # by hand\n    paused: true # until noon\n", head + "  active: v1\n  switch:\n    force: \"\" # by hand\n    paused: false # until noon\n", Change{Active: ptr("v1"), Force: ptr(""), Paused: ptr(false)}},
		"taken back, quoted":  {head + "  active: v2\n  switch: {force: 'v2'}\n", head + "  active: v2\n  switch: {force: ''}\n", Change{Force: ptr("")}},
		"again":               {head + "  active: v1\n  switch: {force: \"\"}\n", head + "  active: v2\n  switch: {force: \"v2\"}\n", force},
		"nothing to take":     {head + "  active: v2\n", head + "  active: v2\n", Change{Active: ptr("v2"), Force: ptr(""), Paused: ptr(false)}},
		"CRLF":                {strings.ReplaceAll(head+"  active: v1\n", "\n", "\r\n"), strings.ReplaceAll(head+"  active: v2\n  switch: {force: v2}\n", "\n", "\r\n"), force},
		"active over lines":   {head + "  active: |-\n    v1\n", strings.Replace(head, "spec:\n", "spec:\n  switch: {paused: true}\n", 1) + "  active: |-\n    v1\n", pause},
		"switch, then anchor": {head + "  active: v1\n  switch:\n    &a\n    gate: {}\n", head + "  active: v1\n  switch:\n    &a\n    paused: true\n    gate: {}\n", pause},
		"spec in one line": {
			"apiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\nspec: {service: {name: myapp}, active: v1}\n",
			"apiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\nspec: {switch: {force: v2}, service: {name: myapp}, active: v2}\n", force},
		"list": {
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: pointsman.io/v1alpha1\n  kind: VirtualServer\n  metadata: {name: myapp}\n  spec:\n    active: v1\n    service: {name: a}\n",
			"apiVersion: v1\nkind: List\nitems:\n- apiVersion: pointsman.io/v1alpha1\n  kind: VirtualServer\n  metadata: {name: myapp}\n  spec:\n    active: v2\n    switch: {force: v2}\n    service: {name: a}\n", force},
		"json": {
			`{"apiVersion": "pointsman.io/v1alpha1", "kind": "VirtualServer", "metadata": {"name": "myapp"}, "spec": {"service": {"name": "a"}, "active": "v1", "switch": {}}}`,
			`{"apiVersion": "pointsman.io/v1alpha1", "kind": "VirtualServer", "metadata": {"name": "myapp"}, "spec": {"service": {"name": "a"}, "active": "v2", "switch": {"force": "v2"}}}`, force},
		"json without": {
			`{"apiVersion": "pointsman.io/v1alpha1", "kind": "VirtualServer", "metadata": {"name": "myapp"}, "spec": {"service": {"name": "a"}, "active": "v1"}}`,
			`{"apiVersion": "pointsman.io/v1alpha1", "kind": "VirtualServer", "metadata": {"name": "myapp"}, "spec": {"switch": {"paused": true}, "service": {"name": "a"}, "active": "v1"}}`, pause},
	} {
		t.Run(name, func(t *testing.T) {
			file := "m.yaml"
			if strings.HasPrefix(name, "json") {
				file = "m.json"
			}
			edited, _, err := Edit(file, []byte(c.before), myapp, c.change)
			require.NoError(t, err)
			assert.Equal(t, c.after, string(edited))
			again, _, err := Edit(file, edited, myapp, c.change)
			require.NoError(t, err)
			assert.Equal(t, c.after, string(again), "twice is once")
		})
	}
}

func TestEditSwitchRefusals(t *testing.T) {
	shared := "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: x}, spec: {service: {name: x}, active: v1, switch: &s {paused: false}}}\n" +
		"- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: {service: {name: x}, active: v1, switch: *s}}\n"
	for name, c := range map[string]struct{ text, want string }{
		"shared":         {shared, "m.yaml:4:"},
		"shared, absent": {strings.Replace(shared, "paused: false", "force: v1", 1), "m.yaml:5:"},
		"null":           {head + "  active: v1\n  switch:\n", "m.yaml:7:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Edit("m.yaml", []byte(c.text), myapp, Change{Paused: ptr(true)})
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "spec.switch.paused cannot be changed here: ")
			require.ErrorContains(t, err, "write it as a plain value, as in switch: {paused: true}")
		})
	}
	_, _, err := Edit("m.yaml", []byte(head+"  active: v1\n"), myapp, Change{Force: ptr("v 2")})
	require.ErrorContains(t, err, `colour "v 2" must be a label value`)
}

// Whatever the layout: what is declared afterwards is what was, but for the change, and what was written by others is
// still there, in its order.
func TestEditSwitchLayouts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eol := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "eol")
		layout := rapid.SampledFrom([]string{
			"spec:\n  service: {name: a}\n  active: v1%c\n%s",
			"spec:%c\n  active: v1\n%s  service:\n    name: a\n",
			"spec: # é\n%s  service: {name: a} %c\n  active: 'v1'\n",
			"spec:\n%s  active: >-\n    v1\n  service: {name: a}%c\n",
		}).Draw(t, "layout")
		sw := rapid.SampledFrom([]string{
			"", "  switch: {}\n", "  switch: {gate: {minReady: 1}, force: v9}\n", "  switch:\n    # why\n    gate:\n      minReady: 1\n",
			"  switch:\n        paused: true # until noon\n        steps: [{weight: 10, hold: 1m}]\n", "  \"switch\": {\"paused\": false}\n",
			"  switch:\n\n    drain:\n      timeout: 1m\n\n  # tail\n", "  switch: &a\n    force: \"\"\n",
		}).Draw(t, "switch")
		comment := rapid.SampledFrom([]string{"", " # active: v9", " # switch: {"}).Draw(t, "comment")
		tail := rapid.SampledFrom([]string{"", "---\napiVersion: v1\nkind: Service\nmetadata: {name: z}\nspec: {ports: [{port: 1}]}\n", "...\n", "# end"}).Draw(t, "tail")
		text := "apiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\n" +
			strings.Replace(strings.Replace(layout, "%c", comment, 1), "%s", sw, 1) + tail
		before := []byte(strings.ReplaceAll(text, "\n", eol))
		if _, errs := Parse("m.yaml", before); len(errs) > 0 {
			t.Skip("not a manifest:", errs[0])
		}
		var c Change
		colour := rapid.SampledFrom([]string{"v1", "v2", "1.10", "no"})
		if rapid.Bool().Draw(t, "active") {
			c.Active = ptr(colour.Draw(t, "colour"))
		}
		if rapid.Bool().Draw(t, "force") {
			c.Force = ptr(rapid.OneOf(colour, rapid.Just("")).Draw(t, "forced"))
		}
		if rapid.Bool().Draw(t, "pause") {
			c.Paused = ptr(rapid.Bool().Draw(t, "paused"))
		}
		after, was, err := Edit("m.yaml", before, myapp, c)
		if err != nil {
			t.Fatalf("%v in %q", err, before)
		}
		file, errs := Parse("m.yaml", after)
		if len(errs) > 0 {
			t.Fatalf("%v in %q", errs[0], after)
		}
		want := was.DeepCopy()
		c.To(&want.Spec)
		if !assert.ObjectsAreEqual(want, file.VirtualServers[0]) {
			t.Fatalf("%q declares %+v", after, file.VirtualServers[0].Spec)
		}
		for _, line := range strings.Split(string(before), eol) {
			if _, note, ok := strings.Cut(line, "#"); ok && !strings.Contains(string(after), "#"+note) {
				t.Fatalf("%q has lost %q", after, note)
			}
		}
		if grown := strings.Count(string(after), eol) - strings.Count(string(before), eol); grown < 0 || grown > 2 {
			t.Fatalf("%q became %q", before, after)
		}
	})
}
