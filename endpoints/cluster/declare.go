package cluster

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strconv"

	"sigs.k8s.io/json"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

// declare reads a VirtualServer as the manifest reader would. One that the API server should not have
// taken (its CRD may be older than we are, or be gone wrong) is refused by itself.
func declare(d *declared) endpoints.VirtualServer {
	vs := &v1alpha1.VirtualServer{}
	vs.Namespace, vs.Name = d.Namespace, d.Name
	out := endpoints.VirtualServer{VirtualServer: vs, UID: d.UID, Generation: d.Generation, Digest: digest(d)}
	if err := decode(d.spec, &vs.Spec); err != nil {
		vs.Spec = v1alpha1.VirtualServerSpec{}
		out.Invalid = &endpoints.Refusal{Reason: endpoints.ReasonInvalid, Message: fmt.Sprintf("spec: %s; correct the field, and bring the CRD up to date so that the API server refuses this", fault(err))}
		return out
	}
	v1alpha1.Default(vs)
	if errs := v1alpha1.Validate(vs); len(errs) > 0 {
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

// fault leaves Go's names out of what is wrong with a field.
func fault(err error) string {
	var wrong *stdjson.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Sprintf("%s: is a JSON %s, not %s", wrong.Field, wrong.Value, wrong.Type)
	}
	return err.Error()
}
