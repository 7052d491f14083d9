package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

const protobuf = "application/vnd.kubernetes.protobuf"

// selector is what the API server filters Services and their slices by.
const selector = endpoints.ServiceProxyLabel + "=" + endpoints.ServiceProxyName

var virtualServers = schema.GroupVersionResource{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: "virtualservers"}

// client reads what we watch, over one connection. The ready-made client set knows every API there is,
// which costs memory on each node; two typed resources are all that we need of it.
type client struct {
	host            string
	core, discovery rest.Interface
	own             rest.Interface // VirtualServers
	names           *names
	slices          sliceReader
	parameters      runtime.ParameterCodec
}

func newClient(config *rest.Config, nodeName string) (*client, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "pointsman (" + nodeName + ")"
	config.QPS, config.Burst = 20, 40
	config.DisableCompression = true // which costs each node, and the API server for each node, more than the network
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server %s: %w", config.Host, err)
	}
	scheme := runtime.NewScheme()
	for gv, objects := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion:      {&corev1.Service{}, &corev1.ServiceList{}},
		discoveryv1.SchemeGroupVersion: {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
	} {
		scheme.AddKnownTypes(gv, objects...)
		metav1.AddToGroupVersion(scheme, gv)
	}
	if err := metav1.AddMetaToScheme(scheme); err != nil { // Pods are read as metadata alone
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	typed := func(gv schema.GroupVersion, path, accept string) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &gv, path, codecs
		c.ContentType, c.AcceptContentTypes = "", accept
		return rest.RESTClientForConfigAndClient(c, shared)
	}
	c := &client{host: config.Host, parameters: runtime.NewParameterCodec(scheme), names: &names{}}
	c.slices = sliceReader{names: c.names, source: c.String()}
	if c.core, err = typed(corev1.SchemeGroupVersion, "/api", protobuf+","+runtime.ContentTypeJSON); err == nil {
		c.discovery, err = typed(discoveryv1.SchemeGroupVersion, "/apis", protobuf+","+runtime.ContentTypeJSON)
	}
	if err == nil {
		c.own, err = typed(v1alpha1.GroupVersion, "/apis", runtime.ContentTypeJSON)
	}
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server %s: %w", config.Host, err)
	}
	return c, nil
}

func (c *client) String() string { return "Kubernetes API server " + c.host }

// reader is how one kind of object is listed and watched.
type reader struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// streamed has what there is come as events of the watch, and not as a list. That is for Pods, of which there may be tens of
	// thousands with little to keep of each: a list of them would be in memory whole. Of the others all is kept, and events cost
	// more time than a list, a third of a start.
	streamed bool
}

func (c *client) services() reader {
	return c.labelled(c.core, "services", func() runtime.Object { return &corev1.ServiceList{} })
}

func (c *client) labelled(r rest.Interface, resource string, newList func() runtime.Object) reader {
	return reader{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			list := newList()
			return list, r.Get().Resource(resource).VersionedParams(&o, c.parameters).Do(ctx).Into(list)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector, o.Watch = selector, true
			return r.Get().Resource(resource).VersionedParams(&o, c.parameters).Watch(ctx)
		},
	}
}

// metadataAs is what the API server is to send in the place of a kind: the metadata alone.
func metadataAs(kind string) string {
	as := ";as=" + kind + ";g=" + metav1.GroupName + ";v=" + metav1.SchemeGroupVersion.Version
	return protobuf + as + "," + runtime.ContentTypeJSON + as
}

// pods are those that carry the label, whatever its value.
func (c *client) pods(label string) reader {
	get := func(o metav1.ListOptions, as string) *rest.Request {
		o.LabelSelector = label
		return c.core.Get().Resource("pods").SetHeader("Accept", metadataAs(as)).VersionedParams(&o, c.parameters)
	}
	return reader{
		streamed: true,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list := &metav1.PartialObjectMetadataList{}
			return list, get(o, "PartialObjectMetadataList").Do(ctx).Into(list)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return get(o, "PartialObjectMetadata").Watch(ctx)
		},
	}
}

// service gets one Service, labelled or not.
func (c *client) service(ctx context.Context, name types.NamespacedName) (*corev1.Service, error) {
	svc := &corev1.Service{}
	err := c.core.Get().Namespace(name.Namespace).Resource("services").Name(name.Name).Do(ctx).Into(svc)
	return svc, err
}
