package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/fakeapi"
)

// kill is the moment at which a process ends: at a write of a status, before the API server has it or after.
type kill struct {
	write int // counted from 1
	after bool
}

// killed is a process's connection to the API server. From the moment of its kill on nothing goes through, as if
// the process were not there: what it does then, nobody sees.
type killed struct {
	through http.RoundTripper
	at      kill
	writes  atomic.Int32
	dead    chan struct{}
}

var errDead = errors.New("this process was killed")

func (k *killed) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-k.dead:
		return nil, errDead
	default:
	}
	if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/status") || int(k.writes.Add(1)) != k.at.write {
		return k.through.RoundTrip(r)
	}
	if k.at.after {
		if answer, err := k.through.RoundTrip(r); err == nil {
			_ = answer.Body.Close()
		}
	}
	close(k.dead)
	return nil, errDead
}

// TestCoordinatorKilledAtEveryWrite: a switch by steps, observed, whose coordinator is killed at any one of its writes. The
// next one ends it: in order, with nothing decided twice and no node sent back.
func TestCoordinatorKilledAtEveryWrite(t *testing.T) {
	var whole atomic.Int32
	t.Run("none", func(t *testing.T) { whole.Store(int32(switchWithKill(t, kill{}))) })
	require.Greater(t, int(whole.Load()), 5)
	for write := 1; write <= int(whole.Load()); write++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, after it %v", write, after), func(t *testing.T) {
				t.Parallel()
				switchWithKill(t, kill{write, after})
			})
		}
	}
}

// switchWithKill returns how often the first coordinator wrote a status.
func switchWithKill(t *testing.T, at kill) int {
	s := fakeapi.New(t)
	world(t, s, 1, "a", "b")
	_ = declare(t, s, "v1")
	k := &killed{at: at, dead: make(chan struct{})}
	config := s.Config()
	config.Wrap(func(through http.RoundTripper) http.RoundTripper { k.through = through; return k })
	first := process(t, s, "a", config)
	second := process(t, s, "b", s.Config())
	stopFirst := start(t, first.Run)
	require.Eventually(t, func() bool { return first.Leading() || isClosed(k.dead) }, soon, often)
	stopSecond := start(t, second.Run)
	ctx, cancel := context.WithCancel(t.Context())
	walked := make(chan []decided, 1)
	go func() { walked <- obeyAll(ctx, t, s, "a", "b") }()
	await := func(active string) {
		t.Helper()
		eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return allSwitched(v) && v.Active == active })
	}
	await("v1")
	spec := declare(t, s, "v2")
	seen := &endpoints.Snapshot{Servers: []endpoints.Server{*resolved(spec, both)}}
	first.Observe(seen)
	second.Observe(seen)
	await("v2")
	if at.write > 0 {
		// The API server, and so we, may have the last write before the process is dead of it.
		require.Eventually(t, func() bool { return isClosed(k.dead) }, soon, often, "it was not killed")
		require.Eventually(t, second.Leading, soon, often)
	}
	status := statusIn(t, s, "app0000")
	require.Equal(t, "v1", status.Previous)
	require.Len(t, status.History, 2)
	require.Equal(t, v1alpha1.OutcomeSucceeded, status.History[0].Outcome)
	cancel()
	var decision int64
	var walk []string
	for _, d := range <-walked {
		require.GreaterOrEqual(t, d.number, decision, "a node was sent back")
		if d.number > decision {
			walk = append(walk, d.what)
		}
		decision = d.number
	}
	require.Equal(t, []string{"v1", "v1, v2 0 %", "v1, v2 50 %", "v2"}, walk)
	stopSecond()
	if at.write == 0 {
		stopFirst()
	}
	return int(k.writes.Load())
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// process is a coordinator in a process of its own, that stands for election often.
func process(t *testing.T, s *fakeapi.Server, node string, config *rest.Config) *Coordinator {
	log, _ := quietLog()
	c, err := NewCoordinator(config, Options{NodeName: node, Version: "v0.3", Log: log})
	require.NoError(t, err)
	c.leadFor, c.leadDeadline, c.leadRetry = time.Second, 600*time.Millisecond, 50*time.Millisecond
	var vs v1alpha1.VirtualServer
	s.Read(t, "virtualservers", "default", "app0000", &vs)
	c.Observe(&endpoints.Snapshot{Servers: []endpoints.Server{*resolved(&vs, both)}})
	return c
}

// declare is a switch by one step, observed, by the user's hand.
func declare(t *testing.T, s *fakeapi.Server, active string) *v1alpha1.VirtualServer {
	var vs v1alpha1.VirtualServer
	s.Read(t, "virtualservers", "default", "app0000", &vs)
	require.NoError(t, yaml.Unmarshal([]byte("{steps: [{weight: 50, hold: 100ms}], observe: {window: 100ms}}"), &vs.Spec.Switch))
	vs.Spec.Active = active
	vs.Generation++
	v1alpha1.Default(&vs)
	s.Apply(t, "virtualservers", &vs)
	return &vs
}

// decided is what a node saw to be decided.
type decided struct {
	number int64
	what   string
}

// obeyAll has nodes do what is decided, and report it, until ctx ends; and returns what that was.
func obeyAll(ctx context.Context, t *testing.T, s *fakeapi.Server, nodes ...string) (out []decided) {
	for ; ctx.Err() == nil; time.Sleep(often) {
		var vs v1alpha1.VirtualServer
		s.Read(t, "virtualservers", "default", "app0000", &vs)
		v := &vs.Status
		if v.Decision == 0 {
			continue
		}
		now := decided{v.Decision, v.Active}
		if v.Candidate != "" {
			now.what += fmt.Sprintf(", %s %d %%", v.Candidate, v.Weight)
		}
		if len(out) > 0 && out[len(out)-1] == now {
			continue
		}
		out = append(out, now)
		for _, n := range nodes {
			e := entry("app0000", v.Active)
			e.Generation, e.Decision, e.Staged, e.Weight = vs.Generation, v.Decision, v.Candidate, v.Weight
			s.Apply(t, "nodereports", reportWith(n, e))
		}
	}
	return out
}
