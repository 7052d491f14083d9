package cluster

import (
	stdjson "encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/json"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

// declare reads a VirtualServer as the manifest reader would. One that the API server should not have
// taken (its CRD may be older than we are, or be gone wrong) is refused by itself.
func declare(u *unstructured.Unstructured) endpoints.VirtualServer {
	vs := &v1alpha1.VirtualServer{}
	vs.Namespace, vs.Name = u.GetNamespace(), u.GetName()
	out := endpoints.VirtualServer{
		VirtualServer: vs, UID: u.GetUID(), Generation: u.GetGeneration(),
		Digest: fmt.Sprintf("%s/%d", u.GetUID(), u.GetGeneration()),
	}
	if err := decode(u.Object["spec"], &vs.Spec); err != nil {
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

// decode goes by way of JSON, whose errors tell the field, as those of the converter of unstructured
// objects do not.
func decode(spec any, into *v1alpha1.VirtualServerSpec) error {
	text, err := stdjson.Marshal(spec)
	if err != nil {
		return err
	}
	return json.UnmarshalCaseSensitivePreserveInts(text, into)
}

// fault leaves Go's names out of what is wrong with a field.
func fault(err error) string {
	var wrong *stdjson.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Sprintf("%s: is a JSON %s, not %s", wrong.Field, wrong.Value, wrong.Type)
	}
	return err.Error()
}
