package cluster

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/endpoints"
)

const (
	vsText = `---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: %s}
spec: {service: {name: %s}, active: v1%s}
`
	serviceText = `---
apiVersion: v1
kind: Service
metadata: {name: %s, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {type: NodePort, ports: [{port: 80, nodePort: %d}]}
`
	sliceText = `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, labels: {kubernetes.io/service-name: %s, service.kubernetes.io/service-proxy-name: pointsman%s}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [%s]
`
	podText = `---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {%s}}
`
)

// scenario is one Service over the Pods of two versions.
func scenario() string {
	return fmt.Sprintf(vsText, "myapp", "myapp", "") + fmt.Sprintf(serviceText, "myapp", 30080) +
		fmt.Sprintf(sliceText, "myapp-1", "myapp", "", endpoint(1, "a")+", "+endpoint(2, "b")) +
		fmt.Sprintf(podText, "a", "app: myapp, version: v1") + fmt.Sprintf(podText, "b", "app: myapp, version: v2")
}

func endpoint(n int, pod string) string {
	return fmt.Sprintf("{addresses: [10.0.0.%d], conditions: {ready: true}, nodeName: n1, zone: z, targetRef: {kind: Pod, name: %s, namespace: default, uid: u}}", n, pod)
}

// testPatience is a start's in tests: long enough for a healthy one.
const testPatience = 4 * time.Second

// running is a Source with all that it published.
type running struct {
	*Source
	t    *testing.T
	logs *test.Hook
	seen []*endpoints.Snapshot
	stop func()
}

func run(t *testing.T, a *apiServer, stateDir string) *running {
	t.Helper()
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	s, err := New(&rest.Config{Host: "http://" + a.address}, Options{NodeName: "n1", StateDir: stateDir, Log: log})
	require.NoError(t, err)
	s.patience = testPatience
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{Source: s, t: t, logs: hook}
	stopped := false
	r.stop = func() {
		cancel()
		if !stopped {
			stopped = true
			select {
			case err := <-done:
				assert.NoError(t, err)
			case <-time.After(soon):
				t.Error("Run did not end")
			}
		}
	}
	t.Cleanup(r.stop)
	return r
}

// await takes what is published until the predicate holds.
// soon is how long a test waits for what must come; a slow machine is no failure.
const soon = time.Minute

func (r *running) await(what string, ok func(*endpoints.Snapshot) bool) *endpoints.Snapshot {
	r.t.Helper()
	deadline := time.After(soon)
	for {
		if snap := r.Snapshot(); snap != nil && ok(snap) {
			return snap
		}
		select {
		case <-r.Changed():
			r.seen = append(r.seen, r.Snapshot())
		case <-deadline:
			last := "nothing was published"
			if snap := r.Snapshot(); snap != nil {
				last = describe(snap) + fmt.Sprint(snap.Errors)
			}
			require.Fail(r.t, "not seen in time: "+what, "%s\n%v", last, messages(r.logs))
		}
	}
}

func (r *running) awaits(want string) *endpoints.Snapshot {
	r.t.Helper()
	return r.await(want, func(s *endpoints.Snapshot) bool { return describe(s) == want })
}

// stays fails when something is published for a time.
func (r *running) stays(for_ time.Duration) {
	r.t.Helper()
	select {
	case <-r.Changed():
		require.Fail(r.t, "published", "%s", describe(r.Snapshot()))
	case <-time.After(for_):
	}
}

func messages(h *test.Hook) (out []string) {
	for _, e := range h.AllEntries() {
		out = append(out, e.Message)
	}
	return out
}

// describe writes each server as its name, then its endpoints or why it is refused.
func describe(s *endpoints.Snapshot) string {
	var out []string
	for _, server := range s.Servers {
		line := server.Key.Name + ":"
		if server.Refused != nil {
			line += " " + server.Refused.Reason
		}
		for _, p := range server.Ports {
			if p.Name != "" {
				line += " " + p.Name
			}
			for _, e := range p.Endpoints {
				line += " " + netip.AddrPortFrom(e.Addr, e.Port).String() + "=" + e.Colour
				if !e.Ready {
					line += "!"
				}
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

const both = "myapp: 10.0.0.1:80=v1 10.0.0.2:80=v2"

func TestScenario(t *testing.T) {
	a := newAPIServer(t).start()
	a.apply(scenario())
	r := run(t, a, t.TempDir())
	snap := r.awaits(both)
	assert.Len(t, r.seen, 1, "the first Snapshot is complete")
	assert.Empty(t, snap.Errors)
	s := snap.Servers[0]
	assert.Equal(t, "uid-myapp/1", s.Digest)
	assert.EqualValues(t, 1, s.Generation)
	assert.EqualValues(t, "uid-myapp", s.UID)
	assert.Equal(t, "rr", s.Spec.Scheduler.Name, "defaults are filled in")
	assert.Equal(t, "n1", s.Ports[0].Endpoints[0].Node)

	a.apply(fmt.Sprintf(podText, "a", "version: v3"))
	r.awaits("myapp: 10.0.0.1:80=v3 10.0.0.2:80=v2")
	a.apply(fmt.Sprintf(podText, "a", "app: myapp"))
	r.awaits("myapp: 10.0.0.1:80= 10.0.0.2:80=v2")
	a.remove("Pod", "b")
	r.awaits("myapp: 10.0.0.1:80= 10.0.0.2:80=")
	a.apply(fmt.Sprintf(sliceText, "myapp-1", "myapp", "", strings.Replace(endpoint(1, "a"), "true", "false", 1)))
	r.awaits("myapp: 10.0.0.1:80=!")
	a.apply(fmt.Sprintf(vsText, "myapp", "myapp", ", preview: {colour: v2, nodePort: 31080}"))
	snap = r.await("generation 2", func(s *endpoints.Snapshot) bool { return s.Servers[0].Generation == 2 })
	assert.Equal(t, "uid-myapp/2", snap.Servers[0].Digest)
	a.remove("VirtualServer", "myapp")
	r.awaits("")
	assert.Zero(t, r.Failures())
	for _, q := range a.requests() {
		assert.Contains(t, []string{
			"list virtualservers", "watch virtualservers", "watch pods version",
			"list services service.kubernetes.io/service-proxy-name=pointsman",
			"watch services service.kubernetes.io/service-proxy-name=pointsman",
			"list endpointslices service.kubernetes.io/service-proxy-name=pointsman",
			"watch endpointslices service.kubernetes.io/service-proxy-name=pointsman",
		}, q, "nothing more than needed is asked for")
	}
}

// TestHandMade: slices that no controller made, several named ports, both families.
func TestHandMade(t *testing.T) {
	a := newAPIServer(t).start()
	a.apply(fmt.Sprintf(vsText, "db", "db", ", colourLabel: example.com/track") + `---
apiVersion: v1
kind: Service
metadata: {name: db, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {clusterIPs: [10.96.0.9, "fd00::9"], ports: [{name: sql, port: 5432}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: by-hand-4
  labels: {kubernetes.io/service-name: db, service.kubernetes.io/service-proxy-name: pointsman, endpointslice.kubernetes.io/managed-by: me, example.com/track: v1}
addressType: IPv4
ports: [{name: sql, port: 15432}, {name: dns, port: 1053, protocol: UDP}]
endpoints: [{addresses: [10.1.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: by-hand-6
  labels: {kubernetes.io/service-name: db, service.kubernetes.io/service-proxy-name: pointsman, endpointslice.kubernetes.io/managed-by: me, example.com/track: v2}
addressType: IPv6
ports: [{name: sql, port: 25432}]
endpoints: [{addresses: ["fd01::1"], conditions: {ready: false, serving: true, terminating: true}}, {addresses: ["fd01::1"]}]
`)
	r := run(t, a, t.TempDir())
	snap := r.awaits("db: sql 10.1.0.1:15432=v1 [fd01::1]:25432=v2 dns 10.1.0.1:1053=v1")
	assert.Len(t, snap.Servers[0].Ports[0].Ways, 2)
	// Slices of a Service that is gone serve nobody, and are there when it is back.
	a.remove("Service", "db")
	assert.True(t, r.awaits("db: ServiceNotFound").Servers[0].Refused.Gone, "the API server says that it is not there")
	a.apply(fmt.Sprintf(serviceText, "db", 30432))
	r.awaits("db:")
}

// TestNothingBeforeAllIsThere holds back one kind of object after the other.
func TestNothingBeforeAllIsThere(t *testing.T) {
	for _, late := range []string{"virtualservers", "services", "endpointslices", "pods"} {
		t.Run(late, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t).start()
			a.apply(scenario())
			release := a.hold(late)
			r := run(t, a, t.TempDir())
			r.stays(time.Second)
			assert.Nil(t, r.Snapshot())
			release()
			r.awaits(both)
			assert.Len(t, r.seen, 1)
		})
	}
}

// TestStartIsNotOld: a cache of the API server that is behind is not asked.
func TestStartIsNotOld(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t).start()
	a.apply(scenario())
	var asked sync.Map // by resource
	a.refusing(func(r *http.Request, resource, verb string) *metav1.Status {
		if verb == "list" || r.URL.Query().Get("sendInitialEvents") == "true" {
			asked.Store(resource, r.URL.Query().Get("resourceVersion")+r.URL.Query().Get("limit"))
		}
		return nil
	})
	run(t, a, t.TempDir()).awaits(both)
	for _, resource := range []string{"virtualservers", "services", "endpointslices", "pods"} {
		how, ok := asked.Load(resource)
		assert.True(t, ok, resource)
		assert.Empty(t, how, "%s: of which age, and how many", resource)
	}
}

// TestNewLabel: a VirtualServer that goes by another label stays as it was until Pods are known by that.
func TestNewLabel(t *testing.T) {
	a := newAPIServer(t).start()
	a.apply(scenario())
	a.apply(fmt.Sprintf(podText, "a", "version: v1, track: east") + fmt.Sprintf(podText, "b", "version: v2, track: west"))
	r := run(t, a, t.TempDir())
	r.awaits(both)
	release := a.hold("pods")
	a.apply(fmt.Sprintf(vsText, "myapp", "myapp", ", colourLabel: track"))
	r.stays(300 * time.Millisecond)
	a.apply(fmt.Sprintf(podText, "a", "version: v3, track: east"))
	snap := r.awaits("myapp: 10.0.0.1:80=v3 10.0.0.2:80=v2")
	assert.EqualValues(t, 1, snap.Servers[0].Generation)
	release()
	r.awaits("myapp: 10.0.0.1:80=east 10.0.0.2:80=west")
	for _, s := range r.seen {
		assert.NotContains(t, describe(s), ":80= ")
	}
	// Nobody goes by the old label any more.
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pods) == 1 && r.pods["track"] != nil
	}, time.Second, 10*time.Millisecond)
}

// TestUnlabelledService: the watch does not show it, and still the refusal says what is the matter.
func TestUnlabelledService(t *testing.T) {
	a := newAPIServer(t).start()
	unlabelled := strings.Replace(fmt.Sprintf(serviceText, "myapp", 30080), ", labels: {service.kubernetes.io/service-proxy-name: pointsman}", "", 1)
	a.apply(scenario() + unlabelled + fmt.Sprintf(vsText, "other", "none", ""))
	a.refusing(func(_ *http.Request, _, verb string) *metav1.Status {
		if verb == "get" {
			time.Sleep(200 * time.Millisecond) // long enough for a wrong guess to be published
		}
		return nil
	})
	r := run(t, a, t.TempDir())
	snap := r.awaits("myapp: ServiceNotLabelled; other: ServiceNotFound")
	assert.Contains(t, snap.Servers[0].Refused.Message, "kubectl label service -n default myapp --overwrite service.kubernetes.io/service-proxy-name=pointsman")
	a.apply(fmt.Sprintf(serviceText, "myapp", 30080))
	r.awaits(both + "; other: ServiceNotFound")
	// Its slice loses the label too. For the watch it is gone, and may be so before the Service is.
	a.remove("EndpointSlice", "myapp-1")
	time.Sleep(40 * time.Millisecond)
	a.apply(unlabelled)
	r.awaits("myapp: ServiceNotLabelled; other: ServiceNotFound")
	for _, s := range r.seen {
		for i := range s.Servers {
			if s.Servers[i].Refused == nil {
				assert.NotEmpty(t, s.Servers[i].Ports[0].Endpoints, "not without endpoints before it is refused")
			}
		}
		assert.NotContains(t, describe(s), "myapp: ServiceNotFound", "never for want of an answer")
	}
	a.remove("Service", "myapp")
	r.awaits("myapp: ServiceNotFound; other: ServiceNotFound") // by asking again
	a.apply(unlabelled)
	r.awaits("myapp: ServiceNotLabelled; other: ServiceNotFound")
	gets := 0
	for _, q := range a.requests() {
		if strings.HasPrefix(q, "get") {
			gets++
		}
	}
	assert.Less(t, gets, 20)
	a.remove("VirtualServer", "other")
	a.remove("VirtualServer", "myapp")
	r.awaits("")
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.missing)+len(r.left)+len(r.pods) == 0
	}, time.Second, 10*time.Millisecond)
}

// TestInvalid: what a good CRD would not have let through is refused by itself.
func TestInvalid(t *testing.T) {
	a := newAPIServer(t).start()
	a.apply(scenario() +
		fmt.Sprintf(vsText, "bad", "bad", ", scheduler: {name: fastest}") +
		fmt.Sprintf(vsText, "worse", "worse", ", preview: {nodePort: [1]}"))
	r := run(t, a, t.TempDir())
	snap := r.awaits("bad: Invalid; " + both + "; worse: Invalid")
	assert.Contains(t, snap.Servers[0].Refused.Message, `spec.scheduler.name: Invalid value: "fastest": must be one of rr`)
	assert.Contains(t, snap.Servers[2].Refused.Message, "spec: preview.nodePort: is a JSON array, not int32; correct the field")
	a.apply(fmt.Sprintf(vsText, "bad", "bad", ""))
	r.awaits("bad: ServiceNotFound; " + both + "; worse: Invalid")
}

// TestCoalesced: many changes are few Snapshots, and one is seen soon.
func TestCoalesced(t *testing.T) {
	a := newAPIServer(t).start()
	for i := range 100 {
		a.apply(fmt.Sprintf(vsText, fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i), "") + fmt.Sprintf(serviceText, fmt.Sprintf("s%d", i), 20000+i))
	}
	r := run(t, a, t.TempDir())
	r.await("all", func(s *endpoints.Snapshot) bool { return len(s.Servers) == 100 })
	r.seen = nil
	began := time.Now()
	for i := range 1000 {
		a.apply(fmt.Sprintf(sliceText, fmt.Sprintf("e%d", i), fmt.Sprintf("s%d", i%100), ", version: v1", fmt.Sprintf("{addresses: [10.1.%d.%d]}", i/200, i%200)))
	}
	r.await("all endpoints", func(s *endpoints.Snapshot) bool {
		n := 0
		for _, server := range s.Servers {
			n += len(server.Ports[0].Endpoints)
		}
		return n == 1000
	})
	t.Logf("1000 slices in %s: %d Snapshots", time.Since(began), len(r.seen))
	assert.LessOrEqual(t, len(r.seen), 3+int(time.Since(began)/maxQuiet))

	before := r.Snapshot()
	a.apply(fmt.Sprintf(sliceText, "e7", "s7", ", version: v2", "{addresses: [10.2.0.1]}"))
	r.await("one", func(s *endpoints.Snapshot) bool { return s != before })
	after, same := r.Snapshot(), 0
	for i := range after.Servers {
		if &after.Servers[i].Ports[0] == &before.Servers[i].Ports[0] {
			same++
		}
	}
	assert.Equal(t, 99, same, "what did not change shares memory")
	// Pods and VirtualServers change in ways that are nothing to us.
	a.apply(fmt.Sprintf(podText, "unrelated", "version: v9"))
	a.apply(fmt.Sprintf(vsText, "s7", "s7", "") + "status: {message: nothing}\n")
	r.stays(200 * time.Millisecond)
}
