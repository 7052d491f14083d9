package cluster

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/endpoints"
)

func noErrors(s *endpoints.Snapshot) bool { return len(s.Errors) == 0 }

// TestOutage: while the API server is gone nothing moves but an error. What changed meanwhile comes as
// one, even when the Pods come late: endpoints are never seen without their colour.
func TestOutage(t *testing.T) {
	for name, c := range map[string]struct {
		expired bool   // the API server has forgotten where the watches were
		late    string // as in apiServer.hold
	}{
		"resumed": {false, "pods"}, "listed anew": {true, "pods"}, "listed slowly": {true, "pods!"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t).start()
			other := fmt.Sprintf(vsText, "other", "other", "") + fmt.Sprintf(serviceText, "other", 30081) +
				fmt.Sprintf(sliceText, "other-1", "other", ", version: v1", "{addresses: [10.0.0.9]}")
			a.apply(scenario() + other)
			r := run(t, a, t.TempDir())
			all := both + "; other: 10.0.0.9:80=v1"
			before := r.awaits(all)
			a.stop()
			held := r.await("an error", func(s *endpoints.Snapshot) bool { return len(s.Errors) == 1 })
			assert.Contains(t, held.Errors[0].Message, "the API server does not answer since ")
			assert.Contains(t, held.Errors[0].Message, "; the last known state is held;")
			assert.NotContains(t, held.Errors[0].Message, "resourceVersion")
			assert.Same(t, &before.Servers[0], &held.Servers[0])
			assert.EqualValues(t, 1, r.Failures())
			r.stays(time.Second)

			// The whole Deployment is replaced.
			a.apply(fmt.Sprintf(sliceText, "myapp-1", "myapp", "", endpoint(3, "c")) + fmt.Sprintf(podText, "c", "version: v1"))
			a.remove("Pod", "a")
			a.remove("Pod", "b")
			a.remove("VirtualServer", "other")
			a.remove("Service", "other")
			a.remove("EndpointSlice", "other-1")
			if c.expired {
				a.expire()
			}
			a.afterHeld(c.late, a.hold(c.late))
			a.start()
			r.seen = nil
			r.await("the new state", func(s *endpoints.Snapshot) bool {
				return describe(s) == "myapp: 10.0.0.3:80=v1" && noErrors(s)
			})
			for _, s := range r.seen {
				if got := describe(s); got != all {
					assert.Equal(t, "myapp: 10.0.0.3:80=v1", got, "one clean resync")
				}
			}
			r.mu.Lock()
			assert.Len(t, r.services.have, 1)
			assert.Len(t, r.slices.have, 1)
			r.mu.Unlock()
			assert.EqualValues(t, 1, r.Failures())
			assert.Contains(t, strings.Join(messages(r.logs), "\n"), "no longer: the API server does not answer")
		})
	}
}

// TestRestartWithoutAPIServer: what is on disk is in force after some seconds, until the API server says
// otherwise.
func TestRestartWithoutAPIServer(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t).start()
	a.apply(scenario())
	dir := t.TempDir()
	first := run(t, a, dir)
	before := first.awaits(both)
	first.stop()
	a.stop()

	a.apply(fmt.Sprintf(podText, "a", "version: v3"))
	started := time.Now()
	r := run(t, a, dir)
	held := r.awaits(both)
	assert.Greater(t, time.Since(started), testPatience-100*time.Millisecond)
	assert.Equal(t, before.Servers, held.Servers)
	require.Len(t, held.Errors, 1)
	assert.Regexp(t, `^the API server does not answer since .* \(.*connection refused\); the state last kept on disk, of 20..-.*Z, is held; see that it runs and that this node reaches it$`, held.Errors[0].Message)
	file := filepath.Join(dir, stateFile)
	onDisk, err := os.ReadFile(file)
	require.NoError(t, err)

	a.start()
	r.seen = nil
	r.await("what is live", func(s *endpoints.Snapshot) bool {
		return describe(s) == "myapp: 10.0.0.1:80=v3 10.0.0.2:80=v2" && noErrors(s)
	})
	for _, s := range r.seen[:len(r.seen)-1] {
		assert.Same(t, &held.Servers[0], &s.Servers[0], "one clean resync")
		assert.NotEmpty(t, s.Errors)
	}
	require.Eventually(t, func() bool {
		now, err := os.ReadFile(file)
		return err == nil && string(now) != string(onDisk)
	}, saveMost+soon, 20*time.Millisecond)
}

// TestRestartWithAPIServer: the state on disk is then of no interest, but for who held what; and it is
// not written when it is right.
func TestRestartWithAPIServer(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t).start()
	a.apply(fmt.Sprintf(vsText, "z", "myapp", "") + fmt.Sprintf(serviceText, "myapp", 30080))
	dir := t.TempDir()
	first := run(t, a, dir)
	first.awaits("z:")
	first.stop()
	was, err := os.Stat(filepath.Join(dir, stateFile))
	require.NoError(t, err)

	second := run(t, a, dir)
	second.awaits("z:")
	second.stop()
	is, err := os.Stat(filepath.Join(dir, stateFile))
	require.NoError(t, err)
	assert.True(t, os.SameFile(was, is), "not written")

	a.apply(fmt.Sprintf(vsText, "a", "myapp", ""))
	third := run(t, a, dir)
	third.awaits("a: ServiceTaken; z:")
	assert.Len(t, third.seen, 1)
}

// TestNoStateAndNoAPIServer: nothing is known, which is not the same as nothing being there.
func TestNoStateAndNoAPIServer(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"none": "", "cut": `{"version":1,"servers":[{"Key"`, "newer": `{"version":2,"servers":[]}`, "other": `{"version":1,"servers":[{"Colour":"v1"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, failures := t.TempDir(), uint64(1)
			file := filepath.Join(dir, stateFile)
			if content != "" {
				require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
				failures = 2
			}
			a := newAPIServer(t)
			r := run(t, a, dir)
			r.stays(testPatience + time.Second)
			assert.Nil(t, r.Snapshot())
			assert.Equal(t, failures, r.Failures(), "%v", messages(r.logs))
			assert.Contains(t, strings.Join(messages(r.logs), "\n"), "nothing is known before")
			a.apply(scenario())
			a.start()
			r.await(both, func(s *endpoints.Snapshot) bool { return describe(s) == both && noErrors(s) })
			require.Eventually(t, func() bool {
				now, _ := os.ReadFile(file)
				return strings.Contains(string(now), "10.0.0.1")
			}, saveMost+soon, 20*time.Millisecond)
		})
	}
}

// TestSlowStart: an API server that answers, but not with everything.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t).start()
	a.apply(scenario())
	dir := t.TempDir()
	first := run(t, a, dir)
	first.awaits(both)
	first.stop()
	release := a.hold("pods")
	r := run(t, a, dir)
	held := r.awaits(both)
	require.Len(t, held.Errors, 1)
	release()
	r.await("all", noErrors)
}

// TestRefused: what an administrator must mend is said with resource, verb and mend, and takes nothing away.
func TestRefused(t *testing.T) {
	forbid := func(resource, verb string) func(*http.Request, string, string) *metav1.Status {
		return func(_ *http.Request, r, v string) *metav1.Status {
			if r == resource && (verb == "" || v == verb) {
				return status(403, metav1.StatusReasonForbidden, r+" is forbidden: User \"x\" cannot "+v)
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		refuse func(*http.Request, string, string) *metav1.Status
		errors int // one of each kind that is refused, which need not come at once
		want   string
	}{
		"pods":  {forbid("pods", ""), 1, `the API server forbids us to list pods with the label version \(pods is forbidden: User "x" cannot list\); grant the verb list on pods to pointsman's ServiceAccount in its ClusterRole; the state last kept`},
		"watch": {forbid("services", "watch"), 1, `forbids us to watch services .*; grant the verb watch on services `},
		"crd": {func(_ *http.Request, r, _ string) *metav1.Status {
			if r == "virtualservers" {
				return status(404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
			}
			return nil
		}, 1, `the API server knows no virtualservers.pointsman.io \(.*\); install the CRD: kubectl apply -k deploy`},
		"token": {func(*http.Request, string, string) *metav1.Status {
			return status(401, metav1.StatusReasonUnauthorized, "Unauthorized")
		}, 3, `does not know who we are when we list .*give pointsman a valid token`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t).start()
			a.apply(scenario())
			dir := t.TempDir()
			first := run(t, a, dir)
			first.awaits(both)
			first.stop()
			a.refusing(c.refuse)
			r := run(t, a, dir)
			held := r.await("the errors", func(s *endpoints.Snapshot) bool { return describe(s) == both && len(s.Errors) == c.errors })
			for _, e := range held.Errors {
				assert.Regexp(t, c.want, e.Message)
				assert.NotContains(t, e.Message, "does not answer")
			}
			r.stays(time.Second)
			a.refusing(nil)
			r.await("all", noErrors)
		})
	}
	t.Run("lookup", func(t *testing.T) {
		t.Parallel()
		a := newAPIServer(t).start()
		a.apply(scenario() + fmt.Sprintf(vsText, "other", "none", ""))
		a.refusing(forbid("services", "get"))
		r := run(t, a, t.TempDir())
		snap := r.await("an error", func(s *endpoints.Snapshot) bool { return len(s.Errors) > 0 })
		assert.Equal(t, both+"; other: ServiceNotFound", describe(snap))
		assert.Contains(t, snap.Errors[0].Message, "grant the verb get on services to")
		assert.False(t, snap.Servers[len(snap.Servers)-1].Refused.Gone, "nobody has said that it is not there")
	})
}

// TestSaveFails: harmless, counted once, mended by itself.
func TestSaveFails(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t).start()
	a.apply(scenario())
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // not a directory
	r := run(t, a, dir)
	r.awaits(both)
	// The read at the start failed as well: it is no directory.
	require.Eventually(t, func() bool { return r.Failures() > 1 }, savePatience+soon, 10*time.Millisecond)
	r.stays(2 * time.Second)
	assert.EqualValues(t, 2, r.Failures(), "%v", messages(r.logs))
	require.NoError(t, os.Remove(dir))
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, stateFile))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
}
