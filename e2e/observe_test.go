package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
	"github.com/pointsman/pointsman/sync"
)

// healthPort is where each backend answers to HTTP too, in the same mood.
const healthPort = 8080

// versions is a world in which v2 may be a bad version.
type versions struct {
	*world
	mu    gosync.Mutex
	moods map[string]lab.Mood // by colour
	held  chan struct{}       // closed at the end: answers that never come
}

func newVersions(t *testing.T, each int) *versions {
	colours := []lab.Colour{{Name: "v1", Backends: each}, {Name: "v2", Backends: each}}
	v := &versions{
		world: newWorld(t, lab.Config{Colours: colours, Clients: 3}, lab.Manifests{}),
		moods: map[string]lab.Mood{}, held: make(chan struct{}),
	}
	t.Cleanup(func() { close(v.held) })
	for _, b := range v.Backends {
		v.serve(v.podsOf(b.Addr.Addr()), netip.AddrPortFrom(b.Addr.Addr(), healthPort), func(w http.ResponseWriter, r *http.Request) {
			switch v.mood(b.Colour) {
			case lab.Paused:
				<-v.held
			case lab.Resetting:
				c, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					_ = c.(*net.TCPConn).SetLinger(0)
					_ = c.Close()
				}
			default:
				_, _ = fmt.Fprintln(w, "ok")
			}
		})
	}
	return v
}

// podsOf is the namespace of a pod's address.
func (w *world) podsOf(addr netip.Addr) *lab.Namespace {
	for i, network := range w.Config.Networks {
		if network.Contains(addr) {
			return w.Pods[i]
		}
	}
	w.t.Fatalf("%v is in no pod network", addr)
	return nil
}

// serve serves HTTP in a namespace until the test ends.
func (w *world) serve(in *lab.Namespace, at netip.AddrPort, h http.HandlerFunc) {
	w.t.Helper()
	var l net.Listener
	require.NoError(w.t, in.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}))
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { _ = s.Close() })
}

func (v *versions) mood(colour string) lab.Mood {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.moods[colour]
}

// set changes how all backends of a colour are, HTTP included.
func (v *versions) set(colour string, mood lab.Mood) {
	v.mu.Lock()
	v.moods[colour] = mood
	v.mu.Unlock()
	for _, b := range v.Colour(colour) {
		b.Set(mood)
	}
}

// declare declares a colour, with a spec.switch.
func (w *world) declare(active, how string) {
	w.t.Helper()
	w.manifests.Switch = how
	require.NoError(w.t, w.manifests.WriteVirtualServer(active))
}

// myapp is what the state directory says; nil before there is anything.
func (w *world) myapp() *sync.ServerStatus {
	status, err := sync.LoadStatus(w.State)
	if err != nil {
		return nil
	}
	return status.Server(types.NamespacedName{Namespace: "default", Name: w.manifests.Name})
}

// until waits for a phase and gives the status that has it.
func (w *world) until(phase v1alpha1.Phase, active string) *sync.ServerStatus {
	w.t.Helper()
	var s *sync.ServerStatus
	w.eventually(patience, fmt.Sprintf("%s with %s active", phase, active), func() error {
		if s = w.myapp(); s == nil || s.Status.Phase != phase || s.Status.Active != active || !s.Verified {
			text, _ := json.Marshal(s)
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	return s
}

// badVersion is one way for v2 to be bad, and what is to come of it.
type badVersion struct {
	name    string
	observe string // spec.switch.observe
	before  func() // what is bad from the start
	after   func() // what turns bad once v2 serves
	mend    func()
	reason  string
	says    []string // in the message
	either  []string // one of them in the message; nil: no more
	loses   bool     // connections, of its own
}

// A bad new version is gone back from, by itself and before the window is over, with a reason that a person understands.
// Nothing is lost but what the bad version itself broke, and after the rollback all goes to the old one.
func TestKernelBadVersionIsRolledBack(t *testing.T) {
	const window = 2 * time.Minute
	v := newVersions(t, 4)
	figure := v.prometheus()
	resets := func() { v.set("v2", lab.Resetting) }
	pauses := func() { v.set("v2", lab.Paused) }
	mended := func() { v.set("v2", lab.Answering) }
	probe := `window: 2m, connections: false, probe: {http: {port: 8080, path: /live}}`
	v.start("v1")
	for _, bad := range []badVersion{
		{
			name: "accepts and resets, by probe", observe: probe, before: resets, mend: mended, loses: true,
			reason: "ProbeFailed", says: []string{"v2 does not pass spec.switch.observe.probe", "mast01 passes 0 of 4 endpoints of v2", "connection reset before an HTTP answer"},
		},
		{
			name: "accepts and resets, by the kernel's counters", observe: `window: 2m`, before: resets, mend: mended, loses: true,
			reason: "ConnectionsFail", says: []string{"connections to v2 fail, by the kernel's counters", "mast01: connections are accepted and at once reset, at "},
		},
		{
			name: "accepts and never answers, by probe", observe: probe, before: pauses, mend: mended, loses: true,
			reason: "ProbeFailed", says: []string{"accepts, but an HTTP answer did not come in time"},
		},
		{
			name: "accepts and never answers, by a figure", before: pauses, loses: true,
			observe: `window: 2m, prometheus: {url: "http://127.0.0.1:9090", query: "sum(rate(failed[1m]))/sum(rate(all[1m]))", max: "0.05", interval: 1s}`,
			after:   func() { figure.set("0.93") },
			mend:    func() { figure.set("0.01"); mended() },
			reason:  "QueryBeyondBound", says: []string{"sum(rate(failed[1m]))/sum(rate(all[1m])) gave 0.93, above the max of 0.05"},
		},
		{
			name: "half of the endpoints are no longer ready", observe: `window: 2m, minReady: 80%`,
			after: func() {
				half := lab.Ready(v.Colour("v2"))
				for i := range half {
					half[i].Ready = i%2 == 0
				}
				require.NoError(t, v.manifests.WriteSlice("v2", half...))
			},
			mend:   func() { require.NoError(t, v.manifests.WriteSlice("v2", lab.Ready(v.Colour("v2"))...)) },
			reason: "NotReady", says: []string{"2 of 4 endpoints of v2 are ready on every port, and spec.switch.observe.minReady asks for 4"},
		},
		{
			name: "what listened is gone, and its slice does not say so", observe: `window: 2m`, loses: true,
			after: func() {
				for _, b := range v.Colour("v2") {
					b.Stop()
				}
			},
			mend: func() {
				for _, b := range v.Colour("v2") {
					require.NoError(t, b.Start())
				}
			},
			// What is said depends on what there is more of: those that come, or those that were yet to be accepted, which are reset.
			reason: "ConnectionsFail", says: []string{"connections to v2 fail, by the kernel's counters: "},
			either: []string{"mast01: connections are refused, at ", "mast01: connections are accepted and at once reset, at "},
		},
		{
			name: "packets are lost, and its slice does not say so", observe: `window: 2m`, loses: true,
			after: func() { v.lose(v.Colour("v2")) },
			mend: func() {
				for _, pods := range v.Pods {
					_, err := pods.Run("nft", "delete", "table", "ip", "lost")
					require.NoError(t, err)
				}
			},
			reason: "ConnectionsFail", says: []string{"mast01: connections are made and nothing comes back, at "},
		},
	} {
		t.Run(bad.name, func(t *testing.T) { v.in(t).rolledBack(v, bad, window) })
	}
}

func (w *world) rolledBack(v *versions, bad badVersion, window time.Duration) {
	t := w.t
	how := "{observe: {" + bad.observe + "}}"
	w.declare("v1", how)
	w.until(v1alpha1.PhaseSteady, "v1")
	defer func() {
		bad.mend()
		w.declare("v1", how)
		w.until(v1alpha1.PhaseSteady, "v1")
	}()
	if bad.before != nil {
		bad.before()
	}
	held := w.open(3)
	// Many at a time, since those that a bad version hangs are patient: so is a machine that is slow.
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 25, Clients: 60, Timeout: 6 * time.Second})
	require.NoError(t, run.Await(20, patience))
	declared := time.Now()
	w.declare("v2", how)
	w.until(v1alpha1.PhaseObserving, "v2")
	if bad.after != nil {
		require.NoError(t, run.Await(30, patience))
		bad.after()
	}
	s := w.until(v1alpha1.PhaseRolledBack, "v1")
	back := time.Now()
	require.NoError(t, w.serves("v1"))
	t.Logf("rolled back after %v: %s", back.Sub(declared).Round(time.Millisecond), s.Status.Message)
	require.Less(t, back.Sub(declared), window)
	again := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 30, Clients: 4})
	require.NoError(t, again.Await(60, patience))

	require.Equal(t, bad.reason, s.Status.Reason)
	for _, words := range append(bad.says, "v1 is active again") {
		require.Contains(t, s.Status.Message, words)
	}
	if bad.either != nil {
		require.True(t, slices.ContainsFunc(bad.either, func(words string) bool { return strings.Contains(s.Status.Message, words) }), s.Status.Message)
	}
	last := s.Status.History[0]
	require.Equal(t, []string{"v1", "v2", "RolledBack", bad.reason}, []string{last.From, last.To, string(last.Outcome), last.Reason})
	require.Contains(t, last.Message, bad.says[0])
	require.Empty(t, s.Signs, "nothing is observed any more")

	w.intact("v1", held)
	held.Close()
	after := again.Stop()
	healthy(t, after)
	require.Len(t, after.To("v1"), len(after), "%v", after)
	require.NoError(t, run.AwaitSince(back, 6, patience))
	report := run.Stop()
	t.Logf("%v; and then %v", report, after)
	healthy(t, report.Until(declared))
	healthy(t, report.Since(back))
	// What was lost is the bad version's own: begun while that was active, and broken by it, answered or not.
	require.Equal(t, bad.loses, len(report.Failed()) > 0, "%s", report.Failed().Lines())
	for _, c := range report.Failed() {
		require.NotEqual(t, "v1", c.Colour, "%v", c)
	}
}

// lose has all packets to some backends lost.
func (v *versions) lose(backends []*lab.Backend) {
	for _, pods := range v.Pods {
		var rules strings.Builder
		rules.WriteString("table ip lost {\nchain lost {\ntype filter hook prerouting priority -300;\n")
		for _, b := range backends {
			fmt.Fprintf(&rules, "ip daddr %v drop\n", b.Addr.Addr())
		}
		rules.WriteString("}\n}\n")
		_, err := pods.Feed(rules.String(), "nft", "-f", "-")
		require.NoError(v.t, err)
	}
}

// figure is a Prometheus with one sample.
type figure struct {
	mu    gosync.Mutex
	value string
	asked []string
}

func (f *figure) set(value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.value = value
}

// prometheus answers on the node as a Prometheus does, with 0.01.
func (v *versions) prometheus() *figure {
	f := &figure{value: "0.01"}
	v.serve(v.Node(), netip.MustParseAddrPort("127.0.0.1:9090"), func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked = append(f.asked, r.FormValue("query"))
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/api/v1/query" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,%q]}]}}`, time.Now().Unix(), f.value)
	})
	return f
}
