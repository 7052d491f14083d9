package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// DefaultNamespace is where the Leases are.
const DefaultNamespace = "pointsman-system"

// Options is what a Reporter or Coordinator needs to know of its node.
type Options struct {
	NodeName string
	// NodeUID of the Node object, so that a deleted Node takes its report along; "" asks the API server.
	NodeUID   types.UID
	Namespace string // of the Leases; "" is DefaultNamespace
	Version   string // of pointsman
	Log       logrus.FieldLogger
}

// requestTimeout bounds each request but watches.
const requestTimeout = 10 * time.Second

// scheme knows the kinds that this package reads and writes, and the parameters of their requests.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, coordinationv1.AddToScheme, eventsv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

type (
	serverClient = resource[*v1alpha1.VirtualServer, *v1alpha1.VirtualServerList]
	reportClient = resource[*v1alpha1.NodeReport, *v1alpha1.NodeReportList]
	leaseClient  = resource[*coordinationv1.Lease, *coordinationv1.LeaseList]
	metaClient   = resource[*metav1.PartialObjectMetadata, *metav1.PartialObjectMetadataList]
	eventClient  = resource[*eventsv1.Event, *eventsv1.EventList]
)

// clients are of the few resources that this package uses. The ready-made client set, which client-go's own election and
// its recorder of Events bring along, knows every API there is: 12 MB of program on each node, and a third of what
// it does before it begins.
type clients struct {
	pointsman, coordination, events, core rest.Interface
}

func newClients(config *rest.Config) (*clients, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		// client-go's own limit of 5 a second would make a thousand statuses take minutes.
		config.QPS, config.Burst = 100, 200
	}
	config.DisableCompression = true // which costs both ends more than the network
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	var errs []error
	of := func(gv schema.GroupVersion, path, accept, send string) rest.Interface {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.AcceptContentTypes, c.ContentType = &gv, path, accept, send
		c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		client, err := rest.RESTClientForConfigAndClient(c, http)
		errs = append(errs, err)
		return client
	}
	const text, binary = runtime.ContentTypeJSON, runtime.ContentTypeProtobuf
	c := &clients{
		pointsman: of(v1alpha1.GroupVersion, "/apis", text, text), // a CRD has no other
		// Kubernetes' own objects, Leases above all, which are written and read at rest too.
		coordination: of(coordinationv1.SchemeGroupVersion, "/apis", binary+","+text, binary),
		events:       of(eventsv1.SchemeGroupVersion, "/apis", binary+","+text, binary),
		core:         of(corev1.SchemeGroupVersion, "/api", text, text),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	return c, nil
}

func (c *clients) servers(namespace string) *serverClient {
	return &serverClient{c.pointsman, "virtualservers", namespace,
		func() *v1alpha1.VirtualServer { return &v1alpha1.VirtualServer{} },
		func() *v1alpha1.VirtualServerList { return &v1alpha1.VirtualServerList{} }, &whole}
}

func (c *clients) reports() *reportClient {
	return &reportClient{c.pointsman, "nodereports", "",
		func() *v1alpha1.NodeReport { return &v1alpha1.NodeReport{} },
		func() *v1alpha1.NodeReportList { return &v1alpha1.NodeReportList{} }, &whole}
}

// reportVersions tell that a NodeReport was written, and nothing of what it says.
func (c *clients) reportVersions() *metaClient {
	return &metaClient{c.pointsman, "nodereports", "",
		func() *metav1.PartialObjectMetadata { return &metav1.PartialObjectMetadata{} },
		func() *metav1.PartialObjectMetadataList { return &metav1.PartialObjectMetadataList{} }, &metadataOnly}
}

func (c *clients) leases(namespace string) *leaseClient {
	return &leaseClient{c.coordination, "leases", namespace,
		func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		func() *coordinationv1.LeaseList { return &coordinationv1.LeaseList{} }, nil}
}

func (c *clients) eventsIn(namespace string) *eventClient {
	return &eventClient{c.events, "events", namespace,
		func() *eventsv1.Event { return &eventsv1.Event{} },
		func() *eventsv1.EventList { return &eventsv1.EventList{} }, nil}
}

// nodeUID is the one thing that we want of a Node.
func (c *clients) nodeUID(ctx context.Context, name string) (types.UID, error) {
	var node metav1.PartialObjectMetadata
	err := unmarshal(c.core.Get().Resource("nodes").Name(name).SetHeader("Accept", metadataOnly.watch).Do(ctx), &node)
	if err != nil {
		return "", fmt.Errorf("reading Node %s: %w", name, err)
	}
	return node.UID, nil
}

// watched is a resource that can be listed and watched.
type watched[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// watching lists and watches what restrict leaves, and tells h how that goes.
func watching[L runtime.Object](from watched[L], what string, h *health, restrict func(*metav1.ListOptions)) cache.ListerWatcher {
	tell := func(ctx context.Context, err error) {
		// An expired version and a server without streamed lists are answers; the informer lists then.
		if err == nil || !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) && !apierrors.IsInvalid(err) {
			h.set(ctx, "watching "+what, err)
		}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			restrict(&o)
			list, err := from.List(ctx, o)
			tell(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			restrict(&o)
			w, err := from.Watch(ctx, o)
			tell(ctx, err)
			return w, err
		},
	}
}

// quiet keeps client-go from logging each failed try: health tells of those once.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }
