package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/pointsman/pointsman/internal/lab"
)

func newMapper(d discovery.DiscoveryInterface) *restmapper.DeferredDiscoveryRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))
}

// Apply applies the objects of a YAML stream at the server, as `kubectl apply --server-side` does.
func (c *Cluster) Apply(text string) {
	c.t.Helper()
	require.NoError(c.t, c.TryApply(text))
}

// TryApply is [Cluster.Apply] for objects that the server may refuse.
func (c *Cluster) TryApply(text string) error {
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := documents.Decode(object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the objects to apply: %w", err)
		}
		if len(object.Object) == 0 {
			continue
		}
		resource, err := c.resource(object)
		if err == nil {
			_, err = resource.Apply(context.Background(), object.GetName(), object, metav1.ApplyOptions{FieldManager: "e2e", Force: true})
		}
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

func (c *Cluster) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset() // a CRD may be new
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return c.Dynamic.Resource(mapping.Resource), nil
	}
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// Kubectl runs kubectl as an administrator, on the host, input on its standard input, and gives back what it printed.
func (c *Cluster) Kubectl(input string, args ...string) (string, error) {
	request, err := json.Marshal(kubectl{input, args})
	if err != nil {
		return "", err
	}
	return askWith("/kubectl", bytes.NewReader(request))
}

// Eventually polls until there is no error, and says how long that took.
func (c *Cluster) Eventually(within time.Duration, what string, wrong func() error) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		err := wrong()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within {
			require.NoError(c.t, err, "%s: not within %v", what, within)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Endpoints waits until the Service has this many ready endpoints over all of its EndpointSlices, and
// no others that are not terminating. It says how long that took.
func (c *Cluster) Endpoints(namespace, service string, ready int) time.Duration {
	c.t.Helper()
	what := fmt.Sprintf("the Service %s/%s has %d ready endpoints", namespace, service, ready)
	return c.Eventually(Patience, what, func() error {
		slices, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).List(context.Background(),
			metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					seen[e.Addresses[0]] = true
				}
			}
		}
		if len(seen) != ready {
			return fmt.Errorf("%d are ready", len(seen))
		}
		return nil
	})
}

// Pods are the Pods that the selector selects.
func (c *Cluster) Pods(namespace, selector string) []corev1.Pod {
	c.t.Helper()
	list, err := c.Kube.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	require.NoError(c.t, err)
	return list.Items
}

// AccountKubeconfig writes a kubeconfig with a token of the ServiceAccount that is good for an hour, as
// kubelet would mount one, and gives its path.
func (c *Cluster) AccountKubeconfig(namespace, name string) string {
	c.t.Helper()
	hour := int64(3600)
	token, err := c.Kube.CoreV1().ServiceAccounts(namespace).CreateToken(context.Background(), name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	require.NoError(c.t, err)
	path := filepath.Join(c.folder, namespace+"."+name+".kubeconfig")
	require.NoError(c.t, writeKubeconfig(path, c.Config.Host, c.Config.CAData, api.AuthInfo{Token: token.Status.Token}))
	return path
}

// StopAPIServer ends the API server as a crash does, and the controllers with it.
func (c *Cluster) StopAPIServer() {
	c.t.Helper()
	require.NoError(c.t, ask("/apiserver/stop"))
}

// StartAPIServer starts the API server and the controllers again and waits until they, and what stands
// in for kubelet, are at work. Whoever else watched comes back within a minute or so: client-go's
// reflectors wait longer after each failure.
func (c *Cluster) StartAPIServer() {
	c.t.Helper()
	require.NoError(c.t, ask("/apiserver/start"))
	require.NoError(c.t, c.kubelet.watch())
}

// EndPod ends the grace of a Pod that is terminating, as its process does that has nothing left to do.
func (c *Cluster) EndPod(pod *corev1.Pod) {
	c.t.Helper()
	s := c.kubelet.find(pod.UID)
	require.NotNil(c.t, s, "the pod %s does not run", pod.Name)
	s.tell()
	c.kubelet.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
}

// PodNamespace is the network namespace that a Pod runs in.
func (c *Cluster) PodNamespace(pod *corev1.Pod) *lab.Namespace {
	c.t.Helper()
	s := c.kubelet.find(pod.UID)
	require.NotNil(c.t, s, "the pod %s does not run", pod.Name)
	if s.ns == nil {
		return s.node.Namespace
	}
	return s.ns
}
