package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"

	"github.com/pointsman/pointsman/internal/apicases"
)

// TestEachRuleHasACase takes one rule after the other out of the schema: a case of the table must then
// no longer be refused, or no longer in the words that it wants.
func TestEachRuleHasACase(t *testing.T) {
	cases, err := apicases.Load()
	require.NoError(t, err)
	rules := rulesOf("", readCRD(t, virtualServers).Spec.Validation.OpenAPIV3Schema)
	require.Greater(t, len(rules), 40)
	for i, r := range rules {
		crd := readCRD(t, virtualServers)
		rulesOf("", crd.Spec.Validation.OpenAPIV3Schema)[i].remove()
		server := serve(t, crd)
		noticed := false
		for _, c := range cases {
			if c.Valid() {
				continue
			}
			noticed = noticed || !refusedAs(server.create(object(t, c.Manifest)), c.FromAPIServer())
		}
		assert.True(t, noticed, "no case of the table needs %s", r.name)
	}
}

func refusedAs(refusal error, want []string) bool {
	if refusal == nil {
		return false
	}
	for _, piece := range want {
		if !strings.Contains(refusal.Error(), piece) {
			return false
		}
	}
	return true
}

type rule struct {
	name   string
	remove func()
}

// rulesOf lists what a schema asks for, but for the lengths of texts and lists: see TestBounds. The
// order is the same each time.
func rulesOf(path string, s *apiextensions.JSONSchemaProps) []rule {
	var out []rule
	add := func(remove func(), format string, args ...any) {
		out = append(out, rule{path + ": " + fmt.Sprintf(format, args...), remove})
	}
	for i := range s.XValidations {
		add(func() { s.XValidations[i].Rule, s.XValidations[i].MessageExpression = "true", "" }, "rule %s", s.XValidations[i].Rule)
	}
	for i, name := range s.Required {
		add(func() { s.Required = append(s.Required[:i:i], s.Required[i+1:]...) }, "required %s", name)
	}
	if s.Enum != nil {
		add(func() { s.Enum = nil }, "enum %v", s.Enum)
	}
	if s.Minimum != nil {
		add(func() { s.Minimum = nil }, "minimum %v", *s.Minimum)
	}
	if s.Maximum != nil {
		add(func() { s.Maximum = nil }, "maximum %v", *s.Maximum)
	}
	for _, name := range sorted(s.Properties) {
		if path == "" && name == "status" { // a manifest's is not looked at
			continue
		}
		p := s.Properties[name] // a copy, with the map and the slices of the original
		inner := rulesOf(path+"."+name, &p)
		for _, r := range inner {
			out = append(out, rule{r.name, func() { r.remove(); s.Properties[name] = p }})
		}
	}
	if s.Items != nil && s.Items.Schema != nil {
		out = append(out, rulesOf(path+"[]", s.Items.Schema)...)
	}
	return out
}
