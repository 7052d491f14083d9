package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/fakeapi"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
	"github.com/pointsman/pointsman/rollout/cluster"
	"github.com/pointsman/pointsman/sync"
)

// place is a home with VirtualServer default/myapp, and the daemons that serve it: all of them but their kernels, which
// are fakes.
type place interface {
	args() []string // that lead commands there
	start()         // the daemons
	stop()
	spec() v1alpha1.VirtualServerSpec
	status() v1alpha1.VirtualServerStatus
	ready(colour string, ready int) // of two endpoints
}

// inBoth runs a test in either home.
func inBoth(t *testing.T, how string, test func(*testing.T, place)) {
	for name, at := range map[string]func(*testing.T, string) place{"manifests": newManifestPlace, "cluster": newClusterPlace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := at(t, how)
			p.start()
			t.Cleanup(p.stop)
			require.Eventually(t, func() bool { return p.status().Phase == v1alpha1.PhaseSteady }, soon, often)
			test(t, p)
		})
	}
}

func does(t *testing.T, p place, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	status, stdout, stderr := call(t, append(args, p.args()...)...)
	require.Equal(t, want, status, "%v\n%s\n%s", args, stdout, stderr)
	return stdout, stderr
}

// begin runs a command beside the test.
func begin(t *testing.T, p place, args ...string) (end func() (status int, stdout, stderr string)) {
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- run(t.Context(), env{strings.NewReader(""), &out, &errs}, append(args, p.args()...)) }()
	return func() (int, string, string) {
		status := <-done
		return status, out.String(), errs.String()
	}
}

func comesTo(t *testing.T, p place, phase v1alpha1.Phase) {
	t.Helper()
	require.Eventually(t, func() bool { return p.status().Phase == phase }, soon, often, "phase %s", phase)
}

// daemon runs a node's loop over a source, until it is stopped.
type daemon struct {
	stopped []func()
}

func (d *daemon) begin(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	d.stopped = append(d.stopped, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

func (d *daemon) stop() {
	for _, stop := range slices.Backward(d.stopped) {
		stop()
	}
	d.stopped = nil
}

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func reconciler(name, stateDir string, kernel *ipvs.Fake, source sync.Source) *sync.Reconciler {
	host := &node.Fake{}
	host.SetAddresses(netip.MustParseAddr("192.0.2.10"))
	return &sync.Reconciler{
		Config: sync.Config{NodeName: name, StateDir: stateDir},
		IPVS:   kernel, NFT: &nft.Fake{}, Node: host, Source: source, Changes: kernel, Log: quiet(),
	}
}

type manifestPlace struct {
	t          *testing.T
	dir, state string
	kernel     *ipvs.Fake
	daemon     daemon
	counts     map[string]int
}

func newManifestPlace(t *testing.T, how string) place {
	p := &manifestPlace{t: t, dir: t.TempDir(), state: t.TempDir(), kernel: ipvs.NewFake(), counts: map[string]int{"v1": 2, "v2": 2}}
	text := "# the shop\napiVersion: pointsman.io/v1alpha1\nkind: VirtualServer\nmetadata: {name: myapp}\nspec:\n  service: {name: myapp}\n  active: v1 # today\n"
	if how != "" {
		text += "  switch: " + how + " # slowly\n"
	}
	text += "---\napiVersion: v1\nkind: Service\nmetadata: {name: myapp, labels: {service.kubernetes.io/service-proxy-name: pointsman}}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}\n"
	require.NoError(t, os.WriteFile(p.file(), []byte(text), 0o644))
	p.slices()
	return p
}

func (p *manifestPlace) file() string { return filepath.Join(p.dir, "myapp.yaml") }
func (p *manifestPlace) args() []string {
	return []string{"--manifests", p.dir, "--state-dir", p.state}
}

func (p *manifestPlace) slices() {
	text := ""
	for i, colour := range []string{"v1", "v2"} {
		text += fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: myapp-%s, labels: {kubernetes.io/service-name: myapp, version: %s}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints:\n", colour, colour)
		for n := range 2 {
			text += fmt.Sprintf("- {addresses: [10.244.%d.%d], conditions: {ready: %v}}\n", i, n+1, n < p.counts[colour])
		}
	}
	next := filepath.Join(p.dir, ".slices") // no manifest by its name
	require.NoError(p.t, os.WriteFile(next, []byte(text), 0o644))
	require.NoError(p.t, os.Rename(next, filepath.Join(p.dir, "slices.yaml")))
}

func (p *manifestPlace) ready(colour string, ready int) {
	p.counts[colour] = ready
	p.slices()
}

func (p *manifestPlace) start() {
	unlock, err := sync.TryLock(p.state)
	require.NoError(p.t, err)
	p.daemon.stopped = append(p.daemon.stopped, unlock)
	source := endpoints.New(p.dir, p.state, quiet())
	p.daemon.begin(p.t, source.Run)
	p.daemon.begin(p.t, reconciler("mast01", p.state, p.kernel, source).Run)
}

func (p *manifestPlace) stop() { p.daemon.stop() }

func (p *manifestPlace) spec() v1alpha1.VirtualServerSpec {
	snap, err := endpoints.Load(p.dir, p.state)
	require.NoError(p.t, err)
	return *snap.Servers[0].Spec
}

func (p *manifestPlace) status() v1alpha1.VirtualServerStatus {
	status, err := sync.LoadStatus(p.state)
	if err != nil || len(status.Servers) == 0 {
		return v1alpha1.VirtualServerStatus{}
	}
	return status.Servers[0].Status
}

// clusterPlace has two nodes, with their reporters and coordinators.
type clusterPlace struct {
	t       *testing.T
	api     *fakeapi.Server
	config  string
	daemon  daemon
	kernels []*ipvs.Fake
	states  []string

	mu     gosync.Mutex
	counts map[string]int
}

func newClusterPlace(t *testing.T, how string) place {
	p := &clusterPlace{t: t, api: fakeapi.New(t), config: filepath.Join(t.TempDir(), "kubeconfig"), counts: map[string]int{"v1": 2, "v2": 2}}
	for range 2 {
		p.kernels, p.states = append(p.kernels, ipvs.NewFake()), append(p.states, t.TempDir())
	}
	require.NoError(t, os.WriteFile(p.config, fmt.Appendf(nil,
		"apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: %q}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x}]\n", p.api.URL), 0o600))
	vs := &v1alpha1.VirtualServer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "myapp", UID: "u1", Generation: 1}}
	require.NoError(t, yaml.UnmarshalStrict([]byte(how), &vs.Spec.Switch))
	vs.Spec.Service.Name, vs.Spec.Active = "myapp", "v1"
	v1alpha1.Default(vs)
	p.api.Apply(t, "virtualservers", vs)
	return p
}

func (p *clusterPlace) args() []string { return []string{"--kubeconfig", p.config} }

func (p *clusterPlace) ready(colour string, ready int) {
	p.mu.Lock()
	p.counts[colour] = ready
	p.mu.Unlock()
	p.api.Touch()
}

func (p *clusterPlace) start() {
	for i, name := range []string{"node01", "node02"} {
		source := &objectSource{of: p, changed: make(chan struct{}, 1)}
		source.look()
		options := cluster.Options{NodeName: name, NodeUID: types.UID("uid-" + name), Log: quiet()}
		reporter, err := cluster.NewReporter(p.api.Config(), options)
		require.NoError(p.t, err)
		coordinator, err := cluster.NewCoordinator(p.api.Config(), options)
		require.NoError(p.t, err)
		r := reconciler(name, p.states[i], p.kernels[i], source)
		r.Observed = func(s *sync.Status) {
			reporter.Post(s)
			coordinator.Observe(source.Snapshot())
		}
		p.daemon.begin(p.t, reporter.Run)
		p.daemon.begin(p.t, coordinator.Run)
		p.daemon.begin(p.t, source.Run)
		p.daemon.begin(p.t, r.Run)
	}
}

func (p *clusterPlace) stop() { p.daemon.stop() }

func (p *clusterPlace) object() (vs v1alpha1.VirtualServer) {
	p.api.Read(p.t, "virtualservers", "default", "myapp", &vs)
	return vs
}

func (p *clusterPlace) spec() v1alpha1.VirtualServerSpec     { return p.object().Spec }
func (p *clusterPlace) status() v1alpha1.VirtualServerStatus { return p.object().Status }

// objectSource is the object in the API server with endpoints that a test says are there; package endpoints/cluster
// makes the same of a Service's.
type objectSource struct {
	of      *clusterPlace
	snap    atomic.Pointer[endpoints.Snapshot]
	changed chan struct{}
}

func (s *objectSource) Snapshot() *endpoints.Snapshot { return s.snap.Load() }
func (s *objectSource) Changed() <-chan struct{}      { return s.changed }
func (s *objectSource) Failures() uint64              { return 0 }

func (s *objectSource) Run(ctx context.Context) error {
	for {
		changed := s.of.api.Changed()
		s.look()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (s *objectSource) look() {
	vs := s.of.object()
	server := endpoints.Server{
		Key: types.NamespacedName{Namespace: "default", Name: "myapp"}, Spec: &vs.Spec, UID: vs.UID, Generation: vs.Generation,
		Digest: fmt.Sprintf("%s/%d", vs.UID, vs.Generation),
	}
	if v := &vs.Status; v.Active != "" {
		server.Decision = &endpoints.Decision{
			Number: v.Decision, Active: v.Active, Previous: v.Previous, Retiring: v.Retiring,
			Candidate: v.Candidate, Weight: v.Weight, Phase: v.Phase, Rollback: v.Rollback,
		}
	}
	port := endpoints.Port{Protocol: corev1.ProtocolTCP, Ways: []endpoints.Way{{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: 30080}}}
	s.of.mu.Lock()
	for i, colour := range []string{"v1", "v2"} {
		for n := range 2 {
			up := n < s.of.counts[colour]
			port.Endpoints = append(port.Endpoints, endpoints.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, 244, byte(i), byte(n + 1)}), Port: 80, Colour: colour, Ready: up, Serving: up,
			})
		}
	}
	s.of.mu.Unlock()
	server.Ports = []endpoints.Port{port}
	s.snap.Store(&endpoints.Snapshot{Servers: []endpoints.Server{server}})
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

const (
	soon  = time.Minute // a slow machine is no failure
	often = 10 * time.Millisecond
)
