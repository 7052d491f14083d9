package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// apiServer speaks list, watch and get as Kubernetes does, watch lists, selectors, expired resource
// versions and metadata-only answers included. It can be stopped and started at the same address, and be
// told to refuse or to be slow.
type apiServer struct {
	t       *testing.T
	address string
	server  *httptest.Server

	mu      sync.Mutex
	objects map[string]map[string]*unstructured.Unstructured // by resource, then namespace/name
	events  []event
	expired int64 // events up to here are forgotten
	rv      int64
	changed chan struct{} // closed at the next event
	down    chan struct{} // closed when the server stops
	refuse  func(r *http.Request, resource, verb string) *metav1.Status
	block   map[string]chan struct{} // requests for a resource, or what a watch list says after its header if it ends in "!"
	waiting map[string]int
	asked   []string // "verb resource selector" of each request
}

type event struct {
	rv       int64
	resource string
	old, now *unstructured.Unstructured // one may be nil
}

var servers atomic.Uint32 // that were made

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{t: t, objects: map[string]map[string]*unstructured.Unstructured{}, changed: make(chan struct{}), block: map[string]chan struct{}{}, waiting: map[string]int{}, rv: 100, expired: 100}
	// An address of its own: while it is down nobody else's server may stand in its place.
	n := servers.Add(1)
	own := netip.AddrFrom4([4]byte{127, byte(1 + os.Getpid()%250), byte(1 + os.Getpid()/250%250), byte(1 + n%250)})
	l, err := net.Listen("tcp", netip.AddrPortFrom(own, uint16(20000+n/250)).String())
	require.NoError(t, err)
	a.address = l.Addr().String()
	require.NoError(t, l.Close())
	t.Cleanup(a.stop)
	return a
}

func (a *apiServer) start() *apiServer {
	l, err := net.Listen("tcp", a.address)
	require.NoError(a.t, err)
	a.mu.Lock()
	a.down = make(chan struct{})
	a.mu.Unlock()
	a.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: a}}
	a.server.Start()
	return a
}

func (a *apiServer) stop() {
	if a.server == nil {
		return
	}
	close(a.down)
	a.server.CloseClientConnections()
	a.server.Close()
	a.server = nil
}

// expire forgets all events: watches that ended must list anew.
func (a *apiServer) expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expired = a.rv
}

var resources = map[string]string{"VirtualServer": "virtualservers", "Service": "services", "EndpointSlice": "endpointslices", "Pod": "pods"}

// apply puts objects, written as YAML documents.
func (a *apiServer) apply(text string) {
	a.t.Helper()
	for doc := range strings.SplitSeq(text, "---\n") {
		u := &unstructured.Unstructured{}
		if strings.TrimSpace(doc) == "" {
			continue
		}
		require.NoError(a.t, yaml.Unmarshal([]byte(doc), &u.Object))
		if u.GetNamespace() == "" {
			u.SetNamespace("default")
		}
		a.put(u)
	}
}

func (a *apiServer) put(u *unstructured.Unstructured) {
	a.mu.Lock()
	defer a.mu.Unlock()
	resource := resources[u.GetKind()]
	if a.objects[resource] == nil {
		a.objects[resource] = map[string]*unstructured.Unstructured{}
	}
	key := u.GetNamespace() + "/" + u.GetName()
	old := a.objects[resource][key]
	a.rv++
	u.SetResourceVersion(strconv.FormatInt(a.rv, 10))
	if u.GetUID() == "" {
		u.SetUID(types.UID("uid-" + u.GetName()))
	}
	u.SetGeneration(1)
	if old != nil {
		u.SetGeneration(old.GetGeneration())
		if fmt.Sprint(old.Object["spec"]) != fmt.Sprint(u.Object["spec"]) {
			u.SetGeneration(old.GetGeneration() + 1)
		}
	}
	a.objects[resource][key] = u
	a.happened(event{a.rv, resource, old, u})
}

func (a *apiServer) remove(kind, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	resource := resources[kind]
	old := a.objects[resource]["default/"+name]
	require.NotNil(a.t, old, name)
	delete(a.objects[resource], "default/"+name)
	a.rv++
	a.happened(event{a.rv, resource, old, nil})
}

func (a *apiServer) happened(e event) {
	a.events = append(a.events, e)
	close(a.changed)
	a.changed = make(chan struct{})
}

// hold has requests for a resource wait until the returned function is called.
func (a *apiServer) hold(resource string) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := make(chan struct{})
	a.block[resource] = c
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.block, resource)
		close(c)
	})
}

// afterHeld calls release a second after a request has come to be held.
func (a *apiServer) afterHeld(what string, release func()) {
	a.mu.Lock()
	a.waiting[what] = 0
	a.mu.Unlock()
	go func() {
		for held := false; !held; time.Sleep(10 * time.Millisecond) {
			a.mu.Lock()
			held = a.waiting[what] > 0
			a.mu.Unlock()
		}
		time.Sleep(time.Second)
		release()
	}()
}

func (a *apiServer) refusing(f func(r *http.Request, resource, verb string) *metav1.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = f
}

func (a *apiServer) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource, name := parts[len(parts)-1], ""
	if at := slices.Index(parts, "namespaces"); at >= 0 {
		resource, name = parts[at+2], parts[at+1]+"/"+parts[at+3]
	}
	q := r.URL.Query()
	verb := "list"
	switch {
	case name != "":
		verb = "get"
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		verb = "watch"
	}
	a.mu.Lock()
	a.asked = append(a.asked, strings.TrimSpace(verb+" "+resource+" "+q.Get("labelSelector")))
	refuse := a.refuse
	a.mu.Unlock()
	a.wait(r, resource)
	if refuse != nil {
		if status := refuse(r, resource, verb); status != nil {
			respond(w, int(status.Code), status)
			return
		}
	}
	selector, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		respond(w, 400, status(400, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	partial := strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")
	switch verb {
	case "get":
		a.mu.Lock()
		u := a.objects[resource][name]
		a.mu.Unlock()
		if u == nil {
			respond(w, 404, status(404, metav1.StatusReasonNotFound, name+" not found"))
			return
		}
		respond(w, 200, u.Object)
	case "list":
		a.list(w, resource, selector, partial)
	case "watch":
		a.watch(w, r, resource, selector, partial)
	}
}

// wait is where requests are held.
func (a *apiServer) wait(r *http.Request, what string) {
	a.mu.Lock()
	blocked, down := a.block[what], a.down
	a.waiting[what]++
	a.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-r.Context().Done():
		case <-down:
		}
	}
}

func (a *apiServer) list(w http.ResponseWriter, resource string, selector labels.Selector, partial bool) {
	a.mu.Lock()
	items := []any{}
	for _, key := range slices.Sorted(maps.Keys(a.objects[resource])) {
		if u := a.objects[resource][key]; selector.Matches(labels.Set(u.GetLabels())) {
			items = append(items, render(u, partial))
		}
	}
	rv := a.rv
	a.mu.Unlock()
	kind, version := map[string]string{"virtualservers": "VirtualServerList", "services": "ServiceList", "endpointslices": "EndpointSliceList"}[resource],
		map[string]string{"virtualservers": "pointsman.io/v1alpha1", "services": "v1", "endpointslices": "discovery.k8s.io/v1"}[resource]
	if partial {
		kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	respond(w, 200, map[string]any{"kind": kind, "apiVersion": version, "metadata": map[string]any{"resourceVersion": strconv.FormatInt(rv, 10)}, "items": items})
}

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string, selector labels.Selector, partial bool) {
	matches := func(u *unstructured.Unstructured) bool {
		return u != nil && selector.Matches(labels.Set(u.GetLabels()))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	out := json.NewEncoder(w)
	send := func(kind string, object any) { _ = out.Encode(map[string]any{"type": kind, "object": object}) }
	from, _ := strconv.ParseInt(r.URL.Query().Get("resourceVersion"), 10, 64)
	initial := r.URL.Query().Get("sendInitialEvents") == "true"
	if initial {
		w.(http.Flusher).Flush()
		a.wait(r, resource+"!")
	}
	a.mu.Lock()
	if initial {
		for _, u := range a.objects[resource] {
			if matches(u) {
				send("ADDED", render(u, partial))
			}
		}
		from = a.rv
		b := &unstructured.Unstructured{Object: map[string]any{}}
		for kind, of := range resources {
			if of == resource {
				b.SetKind(kind)
			}
		}
		b.SetAPIVersion(map[string]string{"virtualservers": "pointsman.io/v1alpha1", "services": "v1", "pods": "v1", "endpointslices": "discovery.k8s.io/v1"}[resource])
		b.SetResourceVersion(strconv.FormatInt(from, 10))
		b.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		send("BOOKMARK", render(b, partial))
	} else if from < a.expired {
		send("ERROR", status(410, metav1.StatusReasonExpired, "too old resource version"))
		a.mu.Unlock()
		return
	}
	at, _ := slices.BinarySearchFunc(a.events, from, func(e event, rv int64) int { return int(e.rv - rv - 1) })
	down := a.down
	a.mu.Unlock()
	for {
		w.(http.Flusher).Flush()
		a.mu.Lock()
		more, changed := a.events[at:], a.changed
		at = len(a.events)
		a.mu.Unlock()
		for _, e := range more {
			if e.resource != resource {
				continue
			}
			switch was, is := matches(e.old), matches(e.now); {
			case !was && is:
				send("ADDED", render(e.now, partial))
			case was && is:
				send("MODIFIED", render(e.now, partial))
			case was:
				gone := e.old.DeepCopy()
				gone.SetResourceVersion(strconv.FormatInt(e.rv, 10))
				send("DELETED", render(gone, partial))
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-down:
			return
		}
	}
}

func render(u *unstructured.Unstructured, partial bool) any {
	if !partial {
		return u.Object
	}
	return map[string]any{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": u.Object["metadata"]}
}

func respond(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func status(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: code, Reason: reason, Message: message,
	}
}
