package cluster

import (
	"context"
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// object is one of an API server's.
type object interface {
	runtime.Object
	metav1.Object
}

// resource reads and writes the objects of one kind, as client-go's typed clients do. Their generic part, gentype, has all of
// server-side apply in it.
type resource[T object, L runtime.Object] struct {
	client    rest.Interface
	name      string
	namespace string // "": of all, or of none
	newObject func() T
	newList   func() L
}

var parameters = runtime.NewParameterCodec(scheme)

func (r *resource[T, L]) on(request *rest.Request) *rest.Request {
	return request.NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.name)
}

func (r *resource[T, L]) Get(ctx context.Context, name string, o metav1.GetOptions) (T, error) {
	out := r.newObject()
	return out, r.on(r.client.Get()).Name(name).VersionedParams(&o, parameters).Do(ctx).Into(out)
}

func (r *resource[T, L]) List(ctx context.Context, o metav1.ListOptions) (L, error) {
	out := r.newList()
	return out, r.on(r.client.Get()).VersionedParams(&o, parameters).Timeout(seconds(o.TimeoutSeconds)).Do(ctx).Into(out)
}

func (r *resource[T, L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return r.on(r.client.Get()).VersionedParams(&o, parameters).Timeout(seconds(o.TimeoutSeconds)).Watch(ctx)
}

func (r *resource[T, L]) Create(ctx context.Context, object T, o metav1.CreateOptions) (T, error) {
	out := r.newObject()
	return out, r.on(r.client.Post()).VersionedParams(&o, parameters).Body(object).Do(ctx).Into(out)
}

func (r *resource[T, L]) Update(ctx context.Context, object T, o metav1.UpdateOptions) (T, error) {
	out := r.newObject()
	return out, r.on(r.client.Put()).Name(object.GetName()).VersionedParams(&o, parameters).Body(object).Do(ctx).Into(out)
}

// UpdateStatus writes the status of an object, which gets the version that it has then. That is all that the API server
// is asked for: the rest of the answer would be what was sent, of which a NodeReport may have half a megabyte.
func (r *resource[T, L]) UpdateStatus(ctx context.Context, object T, o metav1.UpdateOptions) error {
	answer := r.on(r.client.Put()).Name(object.GetName()).SubResource("status").SetHeader("Accept", metadataAlone).
		VersionedParams(&o, parameters).Body(object).Do(ctx)
	if err := answer.Error(); err != nil {
		return err
	}
	meta, err := metadataOf(answer)
	if err != nil {
		return err
	}
	object.SetResourceVersion(meta.ResourceVersion)
	return nil
}

// metadataAlone asks for nothing else of an object, and takes a whole one too.
const metadataAlone = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

func metadataOf(answer rest.Result) (metav1.ObjectMeta, error) {
	var of metav1.PartialObjectMetadata
	text, err := answer.Raw()
	if err == nil {
		err = json.Unmarshal(text, &of)
	}
	return of.ObjectMeta, err
}

func seconds(n *int64) time.Duration {
	if n == nil {
		return 0
	}
	return time.Duration(*n) * time.Second
}
