package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

// Declarations are the VirtualServers as an API server has them, for commands: read one by one, not watched.
type Declarations struct {
	host    string
	client  dynamic.NamespaceableResourceInterface
	reports dynamic.ResourceInterface
}

// NewDeclarations does no I/O but reading what config names.
func NewDeclarations(config *rest.Config) (*Declarations, error) {
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server %s: %w", config.Host, err)
	}
	reports := v1alpha1.GroupVersion.WithResource("nodereports")
	return &Declarations{config.Host, c.Resource(virtualServers), c.Resource(reports)}, nil
}

// Get gives one with its status; [endpoints.ErrNotFound] when there is none.
func (d *Declarations) Get(ctx context.Context, key types.NamespacedName) (*v1alpha1.VirtualServer, error) {
	u, err := d.client.Namespace(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, d.fault("getting", key, err)
	}
	return decodeAll(u)
}

// List gives all of a namespace, or of all with "".
func (d *Declarations) List(ctx context.Context, namespace string) ([]v1alpha1.VirtualServer, error) {
	list, err := d.client.Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing VirtualServers of the API server %s: %w", d.host, err)
	}
	var out []v1alpha1.VirtualServer
	for i := range list.Items {
		vs, err := decodeAll(&list.Items[i])
		if err != nil {
			return nil, err
		}
		out = append(out, *vs)
	}
	return out, nil
}

// Reports gives what each node was read back to serve.
func (d *Declarations) Reports(ctx context.Context) ([]v1alpha1.NodeReport, error) {
	list, err := d.reports.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing NodeReports of the API server %s: %w", d.host, err)
	}
	out := make([]v1alpha1.NodeReport, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &out[i]); err != nil {
			return nil, fmt.Errorf("reading NodeReport %s: %w", list.Items[i].GetName(), err)
		}
	}
	return out, nil
}

// changeTries is far more than the status of one object is written while it is being changed.
const changeTries = 20

// Change changes what is declared from what it is in was, and no other field. When somebody else has changed any
// of the same fields meanwhile the error says so, and nothing is changed. It returns the object as it was written, with
// the status of that moment: whatever that becomes later is by a declaration that is this one or a later one.
func (d *Declarations) Change(ctx context.Context, was *v1alpha1.VirtualServer, c endpoints.Change) (*v1alpha1.VirtualServer, error) {
	key := types.NamespacedName{Namespace: was.Namespace, Name: was.Name}
	now := was
	for try := 1; ; try++ {
		patch, err := changePatch(now, c)
		if err != nil || patch == nil {
			return now, err
		}
		u, err := d.client.Namespace(key.Namespace).Patch(ctx, key.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "pointsman"})
		if err == nil {
			return decodeAll(u)
		}
		if !apierrors.IsConflict(err) || try == changeTries {
			return nil, d.fault("changing", key, err)
		}
		// The object has been written meanwhile, its status most likely.
		if now, err = d.Get(ctx, key); err != nil {
			return nil, err
		}
		if now.UID != was.UID || now.Spec.Active != was.Spec.Active || now.Spec.Switch.Force != was.Spec.Switch.Force || now.Spec.Switch.Paused != was.Spec.Switch.Paused {
			return nil, fmt.Errorf("VirtualServer %s was changed by somebody else meanwhile (active: %s); look again", key, now.Spec.Active)
		}
	}
}

// changePatch is the merge patch of a change; nil when it changes nothing. One that is nothing any more is removed.
func changePatch(was *v1alpha1.VirtualServer, c endpoints.Change) ([]byte, error) {
	spec, sw := map[string]any{}, map[string]any{}
	if c.Active != nil && *c.Active != was.Spec.Active {
		spec["active"] = *c.Active
	}
	if c.Force != nil && *c.Force != was.Spec.Switch.Force {
		if sw["force"] = nil; *c.Force != "" {
			sw["force"] = *c.Force
		}
	}
	if c.Paused != nil && *c.Paused != was.Spec.Switch.Paused {
		if sw["paused"] = nil; *c.Paused {
			sw["paused"] = true
		}
	}
	if len(sw) > 0 {
		spec["switch"] = sw
	}
	if len(spec) == 0 {
		return nil, nil
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": was.UID, "resourceVersion": was.ResourceVersion}, "spec": spec,
	})
}

func (d *Declarations) fault(doing string, key types.NamespacedName, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w %s at the API server %s", endpoints.ErrNotFound, key, d.host)
	}
	return fmt.Errorf("%s VirtualServer %s at the API server %s: %w", doing, key, d.host, err)
}

func decodeAll(u *unstructured.Unstructured) (*v1alpha1.VirtualServer, error) {
	vs := &v1alpha1.VirtualServer{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, vs); err != nil {
		return nil, fmt.Errorf("reading VirtualServer %s/%s: %w", u.GetNamespace(), u.GetName(), err)
	}
	return vs, nil
}
