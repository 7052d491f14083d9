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

// SetActive changes spec.active from what it is in was, and nothing else. When somebody else has changed
// it meanwhile the error says so, and nothing is changed.
func (d *Declarations) SetActive(ctx context.Context, was *v1alpha1.VirtualServer, colour string) (*v1alpha1.VirtualServer, error) {
	key := types.NamespacedName{Namespace: was.Namespace, Name: was.Name}
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	patch, err := json.Marshal([]op{
		{"test", "/metadata/uid", string(was.UID)}, {"test", "/spec/active", was.Spec.Active}, {"replace", "/spec/active", colour},
	})
	if err != nil {
		return nil, err
	}
	u, err := d.client.Namespace(key.Namespace).Patch(ctx, key.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: "pointsman"})
	if apierrors.IsInvalid(err) {
		if now, getErr := d.Get(ctx, key); getErr == nil && (now.UID != was.UID || now.Spec.Active != was.Spec.Active) {
			return nil, fmt.Errorf("VirtualServer %s was changed by somebody else meanwhile (active: %s); look again", key, now.Spec.Active)
		}
	}
	if err != nil {
		return nil, d.fault("setting active of", key, err)
	}
	return decodeAll(u)
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
