package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

var myapp = types.NamespacedName{Namespace: "default", Name: "myapp"}

// setActive is [Edit] of spec.active alone.
func setActive(path string, data []byte, key types.NamespacedName, colour string) (edited []byte, previous string, err error) {
	edited, was, err := Edit(path, data, key, Change{Active: &colour})
	if err != nil {
		return nil, "", err
	}
	return edited, was.Spec.Active, nil
}

const head = "apiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\nspec:\n  service: {name: myapp}\n"

func TestEdit(t *testing.T) {
	for name, c := range map[string]struct {
		file   string // m.yaml if empty
		before string
		colour string // v2 if empty
		after  string
	}{
		"plain":            {before: head + "  active: v1\n", after: head + "  active: v2\n"},
		"comment":          {before: head + "  active: v1 # was v0\n# end\n", after: head + "  active: v2 # was v0\n# end\n"},
		"wide space":       {before: head + "  active :    v1   \n", after: head + "  active :    v2   \n"},
		"no final newline": {before: head + "  active: v1", after: head + "  active: v2"},
		"double quotes":    {before: head + "  active: \"v1\"\n", after: head + "  active: \"v2\"\n"},
		"escaped quotes":   {before: head + "  \"active\": \"\\x76\\u0031\"\n", after: head + "  \"active\": \"v2\"\n"},
		"single quotes":    {before: head + "  active: 'v1' # 'v1'\n", after: head + "  active: 'v2' # 'v1'\n"},
		"flow":             {before: head + "  {active: v1, colourLabel: version}\n", after: ""},
		"CRLF":             {before: strings.ReplaceAll(head+"  active: v1\n", "\n", "\r\n"), after: strings.ReplaceAll(head+"  active: v2\n", "\n", "\r\n")},
		"CR":               {before: strings.ReplaceAll(head+"  active: v1\n", "\n", "\r"), after: strings.ReplaceAll(head+"  active: v2\n", "\n", "\r")},
		"byte order mark":  {before: "\ufeff" + head + "  active: v1\n", after: "\ufeff" + head + "  active: v2\n"},
		"byte order mark on the line": {
			before: "\ufeff{apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: {active: v1, service: {name: a}}}",
			after:  "\ufeff{apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: {active: v2, service: {name: a}}}"},
		"line separators":   {before: "# a\u2028# b\u0085# c\n" + head + "  active: v1\n", after: "# a\u2028# b\u0085# c\n" + head + "  active: v2\n"},
		"multi-byte before": {before: "{apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp, annotations: {a: é日本😀}}, spec: {service: {name: a}, active: v1}}\n", after: "{apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp, annotations: {a: é日本😀}}, spec: {service: {name: a}, active: v2}}\n"},
		"shrinks":           {before: head + "  active: a-long-colour.1 # x\n  forwarding: tunnel\n", colour: "b", after: head + "  active: b # x\n  forwarding: tunnel\n"},
		"number":            {before: head + "  active: v1\n", colour: "1.10", after: head + "  active: \"1.10\"\n"},
		"number in quotes":  {before: head + "  active: 'v1'\n", colour: "1", after: head + "  active: '1'\n"},
		"from a number":     {before: head + "  active: \"1.10\"\n", colour: "v2", after: head + "  active: \"v2\"\n"},
		"yes":               {before: head + "  active: v1\n", colour: "yes", after: head + "  active: \"yes\"\n"},
		"n":                 {before: head + "  active: v1\n", colour: "n", after: head + "  active: \"n\"\n"},
		"null":              {before: head + "  active: v1\n", colour: "null", after: head + "  active: \"null\"\n"},
		"hexadecimal":       {before: head + "  active: v1\n", colour: "0x1f", after: head + "  active: \"0x1f\"\n"},
		"octal":             {before: head + "  active: v1\n", colour: "0o17", after: head + "  active: \"0o17\"\n"},
		"exponent":          {before: head + "  active: v1\n", colour: "1e3", after: head + "  active: \"1e3\"\n"},
		"date":              {before: head + "  active: v1\n", colour: "2026-11-23", after: head + "  active: \"2026-11-23\"\n"},
		"underscores":       {before: head + "  active: v1\n", colour: "1_000", after: head + "  active: \"1_000\"\n"},
		"anchor":            {before: head + "  active: &a v1\n", after: head + "  active: &a v2\n"},
		"anchor and tag":    {before: head + "  active: &a !!str  v1\n", after: head + "  active: &a !!str  v2\n"},
		"anchor, then line": {before: head + "  active: &a # here\n    v1\n", after: head + "  active: &a # here\n    v2\n"},
		"anchor and quotes": {before: head + "  active: !!str &a 'v1'\n", after: head + "  active: !!str &a 'v2'\n"},
		"alias":             {before: strings.Replace(head, "{name: myapp}\nspec", "{name: myapp, annotations: {a: &a v1}}\nspec", 1) + "  active: *a\n", after: strings.Replace(head, "{name: myapp}\nspec", "{name: myapp, annotations: {a: &a v1}}\nspec", 1) + "  active: v2\n"},
		"alias, quoted":     {before: strings.Replace(head, "{name: myapp}\nspec", "{name: myapp, annotations: {a: &a v1}}\nspec", 1) + "  active: *a # x\n", colour: "2", after: strings.Replace(head, "{name: myapp}\nspec", "{name: myapp, annotations: {a: &a v1}}\nspec", 1) + "  active: \"2\" # x\n"},
		"shared anchor":     {before: strings.Replace(head, "service: {name: myapp}", "service: {name: &a v1}", 1) + "  active: v1\n  preview: {colour: *a, nodePort: 1}\n", after: strings.Replace(head, "service: {name: myapp}", "service: {name: &a v1}", 1) + "  active: v2\n  preview: {colour: *a, nodePort: 1}\n"},
		"literal":           {before: head + "  active: |-\n    v1\n  forwarding: direct\n", after: head + "  active: |-\n    v2\n  forwarding: direct\n"},
		"folded":            {before: head + "  active: >- # why\n    v1\n\n", colour: "1.10", after: head + "  active: >- # why\n    1.10\n\n"},
		"own line":          {before: head + "  active:\n    v1\n", after: head + "  active:\n    v2\n"},
		"complex key":       {before: head + "  ? active\n  : v1\n", after: head + "  ? active\n  : v2\n"},
		"second document":   {before: strings.ReplaceAll(head, "myapp", "other") + "  active: v1\n---\n" + head + "  active: v1\n...\n", after: strings.ReplaceAll(head, "myapp", "other") + "  active: v1\n---\n" + head + "  active: v2\n...\n"},
		"list": {
			before: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: x}, spec: {service: {name: x}, active: v1}}\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: {service: {name: a}, active: v1}}\n",
			after:  "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: x}, spec: {service: {name: x}, active: v1}}\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: {service: {name: a}, active: v2}}\n"},
		"merged": {
			before: strings.Replace(head, "metadata: {name: myapp}\nspec:\n", "metadata: {name: myapp}\nspec:\n  <<: {active: v1}\n", 1),
			after:  strings.Replace(head, "metadata: {name: myapp}\nspec:\n", "metadata: {name: myapp}\nspec:\n  <<: {active: v2}\n", 1)},
		"json": {file: "m.json",
			before: "{\n\t\"apiVersion\": \"pointsman.io/v1alpha1\", \"kind\": \"VirtualServer\",\n\t\"metadata\": {\"name\": \"myapp\"},\n\t\"spec\": {\"service\": {\"name\": \"é\"},\"active\":\"v1\"}}",
			after:  ""},
		"json quotes": {file: "m.json",
			before: "{\n\t\"apiVersion\": \"pointsman.io/v1alpha1\", \"kind\": \"VirtualServer\",\n\t\"metadata\": {\"name\": \"myapp\"},\n\t\"spec\": {\"service\": {\"name\": \"a\"},\"active\":\"v1\"}}", colour: "2",
			after: "{\n\t\"apiVersion\": \"pointsman.io/v1alpha1\", \"kind\": \"VirtualServer\",\n\t\"metadata\": {\"name\": \"myapp\"},\n\t\"spec\": {\"service\": {\"name\": \"a\"},\"active\":\"2\"}}"},
	} {
		t.Run(name, func(t *testing.T) {
			file, colour := c.file, c.colour
			if file == "" {
				file = "m.yaml"
			}
			if colour == "" {
				colour = "v2"
			}
			edited, previous, err := setActive(file, []byte(c.before), myapp, colour)
			if c.after == "" { // the text given is wrong
				require.ErrorContains(t, err, "mend the manifest first")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.after, string(edited))
			if !strings.Contains(name, "shrinks") && !strings.Contains(name, "from") {
				assert.Equal(t, "v1", previous)
			}
			back, _, err := setActive(file, edited, myapp, previous)
			require.NoError(t, err)
			again, _, err := setActive(file, back, myapp, colour)
			require.NoError(t, err)
			assert.Equal(t, c.after, string(again))
		})
	}
}

func TestEditRefusals(t *testing.T) {
	shared := strings.Replace(head, "service: {name: myapp}", "service: {name: myapp}\n  preview: {colour: *a, nodePort: 1}", 1)
	shared = strings.Replace(shared, "  service", "  active: &a v1\n  service", 1)
	two := "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: x}, spec: &s {service: {name: x}, active: v1}}\n- {apiVersion: pointsman.io/v1alpha1, kind: VirtualServer, metadata: {name: myapp}, spec: *s}\n"
	for name, c := range map[string]struct{ text, colour, want string }{
		"anchor in use":  {shared, "v2", "m.yaml:5:11: VirtualServer default/myapp: spec.active cannot be changed here: more than this one value would change, since an anchor shares it with others; write it as a plain value, as in active: v1"},
		"shared spec":    {two, "v2", "m.yaml:4:119: VirtualServer default/myapp: spec.active cannot be changed here: more than this one value would change, since an anchor shares it with others; write it as a plain value, as in active: v1"},
		"no colour":      {head + "  active: v1\n", "", `colour "" must not be empty`},
		"bad colour":     {head + "  active: v1\n", "v 2", `colour "v 2" must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends`},
		"file in error":  {head + "  active: 1\n", "v2", `mend the manifest first: m.yaml:6:11: VirtualServer default/myapp: spec.active: is 1, a number, not a string; quote it: "1"`},
		"two characters": {head + "  active: |\n    v1\n", "v2", `mend the manifest first: m.yaml:6:11: VirtualServer default/myapp: spec.active: Invalid value: "v1\n": must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := setActive("m.yaml", []byte(c.text), myapp, c.colour)
			require.Error(t, err)
			assert.Equal(t, c.want, err.Error())
		})
	}
	_, _, err := setActive("m.yaml", []byte(head+"  active: v1\n"), types.NamespacedName{Namespace: "shop", Name: "myapp"}, "v2")
	require.ErrorIs(t, err, ErrNotDeclared)
}

func TestEditSame(t *testing.T) {
	text := []byte(head + "  active: v1\n")
	edited, previous, err := setActive("m.yaml", text, myapp, "v1")
	require.NoError(t, err)
	assert.Equal(t, "v1", previous)
	assert.Equal(t, text, edited)
}

// TestEditLayouts builds manifests of every layout and colour, and holds the edit to: the text
// around the value stays, and reading it gives the colour.
func TestEditLayouts(t *testing.T) {
	colour := rapid.OneOf(
		rapid.StringMatching(`[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?`),
		rapid.SampledFrom([]string{"1.10", "yes", "y", "null", "NaN", "0x1f", "1e3", "2026-11-23", "true", "007", "0b1", "1_0"}),
	)
	rapid.Check(t, func(t *rapid.T) {
		from, to := colour.Draw(t, "from"), colour.Draw(t, "to")
		quote := rapid.SampledFrom([]string{"", "'", `"`}).Draw(t, "quote")
		if quote == "" && !plainIsString(from) {
			quote = `"`
		}
		properties := rapid.SampledFrom([]string{"", "&a ", "!!str ", "&é !!str ", "&a\n      "}).Draw(t, "properties")
		comment := rapid.SampledFrom([]string{"", " # " + from, " # 😀 active: v9"}).Draw(t, "comment")
		eol := rapid.SampledFrom([]string{"\n", "\r\n", "\r"}).Draw(t, "eol")
		layout := rapid.SampledFrom([]string{
			"spec:\n  service: {name: a}\n  active: %s%s\n",
			"spec:\n  active:   %s%s\n  service:\n    name: a\n",
			"spec: {service: {name: a}, active: %s%s\n  }\n",
			"spec: {\"active\": %s %s\n  , service: {name: a}}\n",
		}).Draw(t, "layout")
		prefix := rapid.SampledFrom([]string{"", "\ufeff", "# é\n", "---\n", "\u2028\n", "apiVersion: v1\nkind: Service\nmetadata: {name: z}\nspec: {ports: [{port: 1}]}\n---\n"}).Draw(t, "prefix")
		text := func(value string) string {
			return strings.ReplaceAll(prefix+"apiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\n"+
				fmt.Sprintf(layout, properties+value, comment), "\n", eol)
		}
		before := []byte(text(quote + from + quote))
		file, errs := Parse("m.yaml", before)
		if len(errs) > 0 {
			t.Skip("not a manifest:", errs[0])
		}
		if file.VirtualServers[0].Spec.Active != from {
			t.Fatalf("read %q", file.VirtualServers[0].Spec.Active)
		}
		after, previous, err := setActive("m.yaml", before, myapp, to)
		if err != nil {
			t.Fatalf("%v in %q", err, before)
		}
		if quote == "" && from != to && !plainIsString(to) {
			quote = `"`
		}
		if previous != from || string(after) != text(quote+to+quote) {
			t.Fatalf("previous %q, text\n%q, want\n%q", previous, after, text(quote+to+quote))
		}
	})
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte(head+"  active: v1\n"), "v2")
	f.Add([]byte(head+"  active: &a !!str v1\n"), "1.10")
	f.Add([]byte("\ufeff"+strings.ReplaceAll(head+"  active: |-\n   v1\n", "\n", "\r\n")), "yes")
	f.Add([]byte("a: &a v1\n---\n"+head+"  active: *a\n"), "v2")
	f.Add([]byte(head+"  <<: {active: v1}\n"), "b")
	f.Fuzz(func(t *testing.T, data []byte, colour string) {
		edited, previous, err := setActive("m.yaml", data, myapp, colour)
		if err != nil {
			return
		}
		file, errs := Parse("m.yaml", edited)
		if len(errs) > 0 {
			t.Fatalf("edited to what is wrong: %v", errs[0])
		}
		var active string
		for _, vs := range file.VirtualServers {
			if vs.Name == myapp.Name && vs.Namespace == myapp.Namespace {
				active = vs.Spec.Active
			}
		}
		if active != colour || len(v1alpha1.ValidateColour(previous)) > 0 {
			t.Fatalf("from %q to %q, not %q", previous, active, colour)
		}
		common := 0
		for common < len(data) && common < len(edited) && data[common] == edited[common] {
			common++
		}
		tail := 0
		for tail < len(data)-common && tail < len(edited)-common && data[len(data)-1-tail] == edited[len(edited)-1-tail] {
			tail++
		}
		if changed := edited[common : len(edited)-tail]; len(changed) > len(colour)+2 {
			t.Fatalf("changed %q to %q", data[common:len(data)-tail], changed)
		}
	})
}
