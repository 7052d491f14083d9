package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/jsontext"
)

// asJSON is what encoding/json makes of a VirtualServer's text.
func asJSON(text []byte) (*declared, error) {
	var in struct {
		Metadata struct {
			Name, Namespace string
			UID             types.UID
			ResourceVersion string
			Generation      int64
		}
		Spec   json.RawMessage
		Status endpoints.Decision
	}
	type decision struct {
		Decision                              int64
		Active, Previous, Retiring, Candidate string
		Weight                                int32
		Phase                                 v1alpha1.Phase
		Rollback                              bool
	}
	var status struct{ Status decision }
	if err := errors.Join(json.Unmarshal(text, &in), json.Unmarshal(text, &status)); err != nil {
		return nil, err
	}
	out := &declared{spec: in.Spec, ObjectMeta: metav1.ObjectMeta{
		Name: in.Metadata.Name, Namespace: in.Metadata.Namespace, UID: in.Metadata.UID, ResourceVersion: in.Metadata.ResourceVersion, Generation: in.Metadata.Generation,
	}}
	if s := status.Status; s.Active != "" {
		out.decision = &endpoints.Decision{
			Number: s.Decision, Active: s.Active, Previous: s.Previous, Retiring: s.Retiring, Candidate: s.Candidate, Weight: s.Weight, Phase: s.Phase, Rollback: s.Rollback,
		}
	}
	return out, nil
}

var texts = []string{
	wireGood, wireWrong, wireEmpty, `{}`, ` { } `, `{"metadata":{}}`, `{"metadata":null,"spec":null,"status":null}`,
	`{"metadata":{"name":"a\\"b\\\\","annotations":{"x":"y"}},"spec":{"a":[1,{"b":"]}\\""}]}}`,
	`{"spec":[],"status":{"active":"v2","decision":7,"previous":"v1","retiring":"v1","candidate":"v3","weight":50,"phase":"Stepping","rollback":true,"conditions":[{"a":1e3},-2,true]}}`,
	"{\n  \"metadata\": {\n    \"name\": \"a\"\n  }\n}",
	`{"metadata":{"name":"é 😀 \\u00e9"}}`,
	`{"metadata":`, `{"metadata":{"name":"a`, `{"a":tru`, `{"a" 1}`, `{"a":}`, `[1}`, `{"a":[}]}`, `{]`, `"a`, ``, `{"generation":`,
}

// What is read of a text is what encoding/json reads of it, and a text that is cut off anywhere is known to be.
func TestText(t *testing.T) {
	for _, example := range texts {
		want, wrong := asJSON([]byte(example))
		got := &declared{}
		err := got.read(jsontext.NewText([]byte(example)))
		if wrong != nil {
			require.Error(t, err, example)
			continue
		}
		require.NoError(t, err, example)
		require.Equal(t, want, got, example)
		for cut := range len(strings.TrimRight(example, " ")) {
			require.ErrorIs(t, (&declared{}).read(jsontext.NewText([]byte(example[:cut]))), io.ErrUnexpectedEOF, example[:cut])
		}
	}
}

// A watch of any text in front of good events ends in an error, and reads what is good however it comes.
func FuzzText(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := &declared{}
		err := got.read(jsontext.NewText(raw))
		if !json.Valid(raw) || !bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) || err != nil {
			return
		}
		if want, err := asJSON(raw); err == nil && canonical(raw) {
			require.Equal(t, want, got)
		}
	})
}

// canonical says that no object has a key twice, or one that encoding/json takes for another in other letters, or escaped: no API
// server writes such.
func canonical(raw []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	type open struct {
		keys  map[string]bool
		value bool
	}
	var stack []*open
	for {
		token, err := decoder.Token()
		if err != nil {
			return true
		}
		var in *open
		if len(stack) > 0 {
			in = stack[len(stack)-1]
		}
		if s, ok := token.(string); ok && in != nil && in.keys != nil && !in.value {
			if in.keys[strings.ToLower(s)] || !strings.Contains(string(raw), `"`+s+`"`) || strings.ToLower(s) != s && s != "resourceVersion" {
				return false
			}
			in.keys[strings.ToLower(s)], in.value = true, true
			continue
		}
		if in != nil {
			in.value = false
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, &open{keys: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, &open{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
			if len(stack) > 0 {
				stack[len(stack)-1].value = false
			}
		}
	}
}
