package cluster

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"sigs.k8s.io/json"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/jsontext"
)

// declare reads a VirtualServer as the manifest reader would. One that the API server should not have
// taken (its CRD may be older than we are, or be gone wrong) is refused by itself.
func (m specs) declare(d *declared) *endpoints.VirtualServer {
	var vs v1alpha1.VirtualServer
	vs.Namespace, vs.Name = d.Namespace, d.Name
	out := &endpoints.VirtualServer{
		Namespace: d.Namespace, Name: d.Name, Spec: &v1alpha1.VirtualServerSpec{}, UID: d.UID, Generation: d.Generation, Digest: digest(d),
	}
	if err := m.decode(d.spec, &vs.Spec); err != nil {
		out.Invalid = &endpoints.Refusal{Reason: endpoints.ReasonInvalid, Message: fmt.Sprintf("spec: %s; correct the field, and bring the CRD up to date so that the API server refuses this", fault(err))}
		return out
	}
	v1alpha1.Default(&vs)
	*out.Spec = vs.Spec
	if errs := v1alpha1.Validate(&vs); len(errs) > 0 {
		out.Invalid = &endpoints.Refusal{Reason: endpoints.ReasonInvalid, Message: errs.ToAggregate().Error()}
	}
	return out
}

func digest(d *declared) string { return string(d.UID) + "/" + strconv.FormatInt(d.Generation, 10) }

func decode(spec stdjson.RawMessage, into *v1alpha1.VirtualServerSpec) error {
	if spec == nil {
		return nil
	}
	return json.UnmarshalCaseSensitivePreserveInts(spec, into)
}

// specs remembers what was made of a spec, beside the Service that it names: most VirtualServers differ in nothing else, and what they
// have in common is decoded once and in memory once. Nobody changes a spec.
type specs map[string]v1alpha1.VirtualServerSpec

const maxSpecs = 256

func (m specs) decode(spec stdjson.RawMessage, into *v1alpha1.VirtualServerSpec) error {
	rest, service, ok := withoutService(spec)
	if !ok || m == nil {
		return decode(spec, into)
	}
	var name v1alpha1.ServiceReference
	if err := json.UnmarshalCaseSensitivePreserveInts(service, &name); err != nil {
		return decode(spec, into) // which says where
	}
	known, ok := m[string(rest)]
	if !ok {
		if err := decode(spec, into); err != nil {
			return err
		}
		if len(m) >= maxSpecs {
			clear(m)
		}
		full := &v1alpha1.VirtualServer{Spec: *into}
		v1alpha1.Default(full) // which would write into what is shared later
		m[string(rest)], *into = full.Spec, full.Spec
		return nil
	}
	*into = known
	into.Service = name
	return nil
}

// withoutService takes the value of "service" out of the text of a spec; not ok: it has none, or more than one.
func withoutService(spec []byte) (rest, service []byte, ok bool) {
	t, from, n := jsontext.NewText(spec), 0, 0
	err := t.Object(func(key []byte) (err error) {
		if string(key) != "service" {
			return t.Skip()
		}
		n++
		service, err = t.Raw()
		from = len(spec) - len(t.Rest()) - len(service)
		return err
	})
	if err != nil || n != 1 || len(bytes.TrimLeft(t.Rest(), " \t\r\n")) > 0 {
		return nil, nil, false
	}
	return slices.Concat(spec[:from], spec[from+len(service):]), service, true
}

// fault leaves Go's names out of what is wrong with a field.
func fault(err error) string {
	var wrong *stdjson.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Sprintf("%s: is a JSON %s, not %s", wrong.Field, wrong.Value, wrong.Type)
	}
	return err.Error()
}
