// Package fakeapi is an API server for unit tests: over real HTTP, and of a few resources only. What an API server
// really does is seen in e2e/cluster.
package fakeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kubernetesscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Server keeps objects as an API server does, as far as its users can tell: versions and conflicts, generations of what
// has a status of its own, merge patches with preconditions, watches from a version or with initial events, selectors of
// one term. It counts each request by verb and resource, and can be gone. It may be used by many goroutines.
type Server struct {
	*httptest.Server
	mu      sync.Mutex
	version int
	objects map[string]map[string]*unstructured.Unstructured // by resource, then namespace/name
	log     []event
	changed chan struct{} // closed and renewed at each change
	counts  map[string]int
	patches []string
	down    bool
	refuse  func(verb, resource string) error
}

type event struct {
	version  int
	resource string
	kind     string
	object   *unstructured.Unstructured
}

var kinds = map[string]string{"virtualservers": "VirtualServer", "nodereports": "NodeReport", "leases": "Lease", "events": "Event", "nodes": "Node"}

func New(t testing.TB) *Server {
	s := &Server{objects: map[string]map[string]*unstructured.Unstructured{}, changed: make(chan struct{}), counts: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { s.SetDown(true); s.CloseClientConnections(); s.Close() })
	return s
}

func (s *Server) Config() *rest.Config { return &rest.Config{Host: s.URL} }

// SetDown makes the server go, open watches included, or come back.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.bump()
	s.mu.Unlock()
}

func (s *Server) SetRefuse(f func(verb, resource string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

func (s *Server) bump() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed is closed when something changes.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Touch has it look as if something had changed.
func (s *Server) Touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bump()
}

// Patches are the bodies of all patches so far.
func (s *Server) Patches() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.patches)
}

// Counts of requests, by what was asked.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Count of requests, as in "update nodereports/status".
func (s *Server) Count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// Writes are all requests so far that would change something, but for those on leases.
func (s *Server) Writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for what, c := range s.counts {
		verb, resource, _ := strings.Cut(what, " ")
		if resource != "leases" && slices.Contains([]string{"create", "update", "patch", "delete"}, verb) {
			n += c
		}
	}
	return n
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	parts = parts[map[string]int{"api": 2, "apis": 3}[parts[0]]:]
	namespace := ""
	if parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource, name, sub := parts[0], "", ""
	if len(parts) > 1 {
		name = parts[1]
	}
	if len(parts) > 2 {
		sub = "/" + parts[2]
	}
	verb := map[string]string{"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[r.Method]
	if verb == "get" && name == "" {
		verb = "list"
		if r.URL.Query().Get("watch") != "" {
			verb = "watch"
		}
	}
	s.mu.Lock()
	down, refuse := s.down, s.refuse
	if !down {
		s.counts[verb+" "+resource+sub]++
	}
	s.mu.Unlock()
	if down {
		conn, _, _ := w.(http.Hijacker).Hijack()
		_ = conn.Close()
		return
	}
	if refuse != nil {
		if err := refuse(verb, resource+sub); err != nil {
			answer(w, nil, err)
			return
		}
	}
	if verb == "watch" {
		s.watch(w, r, resource, namespace)
		return
	}
	body, _ := io.ReadAll(r.Body)
	object, err := s.do(verb, resource, sub, namespace, name, body, r)
	answer(w, object, err)
}

func answer(w http.ResponseWriter, object any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := err.(apierrors.APIStatus).Status()
		status.Kind, status.APIVersion = "Status", "v1"
		w.WriteHeader(int(status.Code))
		object = status
	}
	_ = json.NewEncoder(w).Encode(object)
}

func (s *Server) do(verb, resource, sub, namespace, name string, body []byte, r *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group := schema.GroupResource{Resource: resource}
	if verb == "list" {
		items := []any{}
		for _, o := range s.sorted(resource) {
			if selected(o, namespace, r) {
				items = append(items, o.Object)
			}
		}
		return map[string]any{"kind": kinds[resource] + "List", "apiVersion": apiVersion(r), "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items}, nil
	}
	sent := &unstructured.Unstructured{}
	if len(body) > 0 && verb != "patch" {
		if err := decode(body, &sent.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if name == "" {
		name = sent.GetName()
	}
	have := s.objects[resource][namespace+"/"+name]
	switch {
	case verb == "create" && have != nil:
		return nil, apierrors.NewAlreadyExists(group, name)
	case verb == "create":
		sent.SetKind(kinds[resource])
		sent.SetAPIVersion(apiVersion(r))
		if hasStatus(resource) {
			delete(sent.Object, "status")
		}
		return s.put("ADDED", resource, namespace, sent).Object, nil
	case have == nil:
		return nil, apierrors.NewNotFound(group, name)
	case verb == "get":
		return have.Object, nil
	case verb == "patch":
		s.patches = append(s.patches, string(body))
		var patch map[string]any
		if err := json.Unmarshal(body, &patch); err != nil || r.Header.Get("Content-Type") != string(types.MergePatchType) {
			return nil, apierrors.NewBadRequest("want a merge patch")
		}
		sent = have.DeepCopy()
		sent.Object = merge(sent.Object, patch)
		if sent.GetUID() != have.GetUID() {
			return nil, apierrors.NewConflict(group, name, fmt.Errorf("the UID in the precondition is another"))
		}
	}
	if v := sent.GetResourceVersion(); v != "" && v != have.GetResourceVersion() {
		return nil, apierrors.NewConflict(group, name, fmt.Errorf("the object has been modified"))
	}
	next := have.DeepCopy()
	if sub == "/status" {
		next.Object["status"] = sent.Object["status"]
	} else {
		sent.SetKind(have.GetKind())
		sent.SetAPIVersion(have.GetAPIVersion())
		if next = sent; hasStatus(resource) && !equality.Semantic.DeepEqual(next.Object["spec"], have.Object["spec"]) {
			next.SetGeneration(have.GetGeneration() + 1)
		}
	}
	return s.put("MODIFIED", resource, namespace, next).Object, nil
}

// hasStatus says whether a resource has the status subresource.
func hasStatus(resource string) bool {
	return resource == "nodereports" || resource == "virtualservers"
}

// merge is RFC 7386.
func merge(into, patch map[string]any) map[string]any {
	for key, value := range patch {
		below, isMap := value.(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap:
			was, _ := into[key].(map[string]any)
			if was == nil {
				was = map[string]any{}
			}
			into[key] = merge(was, below)
		default:
			into[key] = value
		}
	}
	return into
}

// decode takes JSON, and protobuf, in which client-go sends kinds of Kubernetes' own.
func decode(body []byte, into *map[string]any) error {
	if bytes.HasPrefix(body, []byte("k8s\x00")) {
		o, _, err := kubernetesscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			return err
		}
		*into, err = runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		return err
	}
	return json.Unmarshal(body, into)
}

func apiVersion(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] == "api" {
		return parts[1]
	}
	return parts[1] + "/" + parts[2]
}

// put stores an object under the next version.
func (s *Server) put(kind, resource, namespace string, o *unstructured.Unstructured) *unstructured.Unstructured {
	s.version++
	o.SetNamespace(namespace)
	o.SetResourceVersion(strconv.Itoa(s.version))
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]*unstructured.Unstructured{}
	}
	s.objects[resource][namespace+"/"+o.GetName()] = o
	if kind == "DELETED" {
		delete(s.objects[resource], namespace+"/"+o.GetName())
	}
	s.log = append(s.log, event{s.version, resource, kind, o})
	s.bump()
	return o
}

func (s *Server) sorted(resource string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, key := range slices.Sorted(maps.Keys(s.objects[resource])) {
		out = append(out, s.objects[resource][key])
	}
	return out
}

func selected(o *unstructured.Unstructured, namespace string, r *http.Request) bool {
	if namespace != "" && o.GetNamespace() != namespace {
		return false
	}
	if _, name, ok := strings.Cut(r.URL.Query().Get("fieldSelector"), "metadata.name="); ok && o.GetName() != name {
		return false
	}
	key, value, ok := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	return !ok || o.GetLabels()[key] == value
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, resource, namespace string) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	send := func(kind string, object map[string]any) {
		_ = out.Encode(map[string]any{"type": kind, "object": object})
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	s.mu.Lock()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, o := range s.sorted(resource) {
			if selected(o, namespace, r) {
				send("ADDED", o.Object)
			}
		}
		from = s.version
		send("BOOKMARK", map[string]any{"kind": kinds[resource], "apiVersion": apiVersion(r), "metadata": map[string]any{
			"resourceVersion": strconv.Itoa(from), "annotations": map[string]any{metav1.InitialEventsAnnotationKey: "true"},
		}})
	}
	s.mu.Unlock()
	for {
		s.mu.Lock()
		changed, down := s.changed, s.down
		for _, e := range s.log {
			if e.version > from && e.resource == resource && selected(e.object, namespace, r) {
				send(e.kind, e.object.Object)
			}
		}
		from = s.version
		s.mu.Unlock()
		w.(http.Flusher).Flush()
		if down {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// Apply puts an object there by somebody else's hand, with its status.
func (s *Server) Apply(t testing.TB, resource string, object runtime.Object) {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	require.NoError(t, err)
	o := &unstructured.Unstructured{Object: content}
	o.SetKind(kinds[resource])
	o.SetAPIVersion(map[string]string{"leases": "coordination.k8s.io/v1", "nodes": "v1"}[resource])
	if o.GetAPIVersion() == "" {
		o.SetAPIVersion("pointsman.io/v1alpha1")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := "ADDED"
	if s.objects[resource][o.GetNamespace()+"/"+o.GetName()] != nil {
		kind = "MODIFIED"
	}
	s.put(kind, resource, o.GetNamespace(), o)
}

func (s *Server) Remove(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[resource][namespace+"/"+name]; o != nil {
		s.put("DELETED", resource, namespace, o.DeepCopy())
	}
}

// Read reads an object into one of its type; false when there is none.
func (s *Server) Read(t testing.TB, resource, namespace, name string, into any) bool {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[resource][namespace+"/"+name]
	if o == nil {
		return false
	}
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into))
	return true
}

// All objects of a resource, in the order of their names.
func (s *Server) All(resource string) []*unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted(resource)
}
