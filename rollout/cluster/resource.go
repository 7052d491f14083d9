package cluster

import (
	"context"
	"encoding/json"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/internal/jsonwatch"
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
	// accept is how lists and watches are read here, as JSON; nil: by client-go, in the encoding that the client asks for.
	accept *accept
}

// accept is what an API server is asked to send for a list and for a watch.
type accept struct{ list, watch string }

var (
	whole = accept{list: runtime.ContentTypeJSON, watch: runtime.ContentTypeJSON}
	// metadataOnly leaves the rest of the objects at the API server.
	metadataOnly = accept{list: metadataAs("PartialObjectMetadataList"), watch: metadataAs("PartialObjectMetadata")}
)

// metadataAs asks for the metadata of what there is, and takes it whole too.
func metadataAs(kind string) string {
	return runtime.ContentTypeJSON + ";as=" + kind + ";g=" + metav1.GroupName + ";v=" + metav1.SchemeGroupVersion.Version + "," + runtime.ContentTypeJSON
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
	get := r.on(r.client.Get()).VersionedParams(&o, parameters).Timeout(seconds(o.TimeoutSeconds))
	if r.accept == nil {
		return out, get.Do(ctx).Into(out)
	}
	return out, unmarshal(get.SetHeader("Accept", r.accept.list).Do(ctx), out)
}

func (r *resource[T, L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	get := r.on(r.client.Get()).VersionedParams(&o, parameters).Timeout(seconds(o.TimeoutSeconds))
	if r.accept == nil {
		return get.Watch(ctx)
	}
	return jsonwatch.Stream(ctx, get.SetHeader("Accept", r.accept.watch), func(body io.ReadCloser) watch.Decoder {
		return jsonwatch.NewEvents(body, r.name, func(raw []byte) (runtime.Object, error) {
			out := r.newObject()
			return out, json.Unmarshal(raw, out)
		})
	})
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
	var written metav1.PartialObjectMetadata
	err := unmarshal(r.on(r.client.Put()).Name(object.GetName()).SubResource("status").SetHeader("Accept", metadataOnly.watch).
		VersionedParams(&o, parameters).Body(object).Do(ctx), &written)
	if err == nil {
		object.SetResourceVersion(written.ResourceVersion)
	}
	return err
}

// unmarshal reads an answer that is JSON.
func unmarshal(answer rest.Result, into any) error {
	if err := answer.Error(); err != nil {
		return err
	}
	text, err := answer.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func seconds(n *int64) time.Duration {
	if n == nil {
		return 0
	}
	return time.Duration(*n) * time.Second
}
