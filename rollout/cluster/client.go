package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
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

// scheme knows the kinds of this project; the parameters of their requests among them.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}()

type (
	serverClient = gentype.ClientWithList[*v1alpha1.VirtualServer, *v1alpha1.VirtualServerList]
	reportClient = gentype.ClientWithList[*v1alpha1.NodeReport, *v1alpha1.NodeReportList]
)

// clients are of the few resources that this package uses.
type clients struct {
	pointsman rest.Interface
	leases    coordinationclient.LeasesGetter
	nodes     coreclient.NodesGetter
	events    eventsclient.EventsV1Interface
}

func newClients(config *rest.Config) (*clients, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		// client-go's own limit of 5 a second would make a thousand statuses take minutes.
		config.QPS, config.Burst = 100, 200
	}
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	own := rest.CopyConfig(config)
	own.GroupVersion, own.APIPath = &v1alpha1.GroupVersion, "/apis"
	own.AcceptContentTypes, own.ContentType = runtime.ContentTypeJSON, runtime.ContentTypeJSON // a CRD has no other
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// Kubernetes' own objects, Leases above all, which are written and read at rest too.
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	var c clients
	var errs [4]error
	c.pointsman, errs[0] = rest.RESTClientForConfigAndClient(own, http)
	c.leases, errs[1] = coordinationclient.NewForConfigAndClient(config, http)
	c.nodes, errs[2] = coreclient.NewForConfigAndClient(config, http)
	c.events, errs[3] = eventsclient.NewForConfigAndClient(config, http)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	return &c, nil
}

func (c *clients) servers(namespace string) *serverClient {
	return gentype.NewClientWithList("virtualservers", c.pointsman, runtime.NewParameterCodec(scheme), namespace,
		func() *v1alpha1.VirtualServer { return &v1alpha1.VirtualServer{} },
		func() *v1alpha1.VirtualServerList { return &v1alpha1.VirtualServerList{} })
}

func (c *clients) reports() *reportClient {
	return gentype.NewClientWithList("nodereports", c.pointsman, runtime.NewParameterCodec(scheme), "",
		func() *v1alpha1.NodeReport { return &v1alpha1.NodeReport{} },
		func() *v1alpha1.NodeReportList { return &v1alpha1.NodeReportList{} })
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
