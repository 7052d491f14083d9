package probe_test

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/probe"
)

func TestAll(t *testing.T) {
	good, bad, dead := listen(t, hang), nobody(t), full(t)
	assert.Empty(t, probe.All(patient(t), tcp(), nil))
	assert.Empty(t, probe.All(patient(t), tcp(), []netip.AddrPort{good, good}))

	many := []netip.AddrPort{dead, bad}
	for range 2 * probe.Parallel {
		many = append(many, good)
	}
	want := []string{bad.String() + ": connection refused", dead.String() + ": no connection in time"}
	if dead.Compare(bad) < 0 {
		want[0], want[1] = want[1], want[0]
	}
	var got []string
	for _, f := range probe.All(patient(t), tcp(), many) {
		assert.Zero(t, f.Since)
		got = append(got, f.String())
	}
	assert.Equal(t, want, got)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	failures := probe.All(ctx, tcp(), []netip.AddrPort{good})
	require.Len(t, failures, 1)
	assert.Equal(t, "not tested: no time left", failures[0].Seen, "what was not tested has not passed")
}

// No more tests than Parallel are under way, whatever there is to test.
func TestAllIsBounded(t *testing.T) {
	var open, most atomic.Int32
	to := listen(t, func(c net.Conn) {
		n := open.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		_, _ = c.Read(make([]byte, 4096))
		time.Sleep(5 * time.Millisecond)
		open.Add(-1) // before it is answered, since then the test is over
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		_ = c.Close()
	})
	endpoints := make([]netip.AddrPort, 4*probe.Parallel)
	for i := range endpoints {
		endpoints[i] = to
	}
	assert.Empty(t, probe.All(patient(t), get(v1alpha1.HTTPProbe{}), endpoints))
	assert.LessOrEqual(t, most.Load(), int32(probe.Parallel))
	assert.Greater(t, most.Load(), int32(1))
}

// prober tests each 20 ms, so that a test need not wait long.
func prober(t *testing.T) *probe.Prober {
	p := probe.NewProberEvery(context.Background(), 20*time.Millisecond, time.Second)
	t.Cleanup(p.Close)
	return p
}

// await waits for a result of a target.
func await(t *testing.T, p *probe.Prober, key string, is func(probe.Result) bool) probe.Result {
	t.Helper()
	var last probe.Result
	require.Eventually(t, func() bool {
		r, ok := p.Result(key)
		last = r
		return ok && is(r)
	}, patience, time.Millisecond, "the result is never so")
	return last
}

func target(p *v1alpha1.Probe, endpoints ...netip.AddrPort) map[string]probe.Target {
	return map[string]probe.Target{"v2": {Probe: p, Endpoints: endpoints}}
}

func complete(r probe.Result) bool { return r.Complete() }

func TestProberTestsWhatIsWanted(t *testing.T) {
	p := prober(t)
	good, bad := listen(t, hang), nobody(t)
	_, known := p.Result("v2")
	assert.False(t, known)
	began := time.Now()
	p.Set(target(tcp(), good, bad))
	r, known := p.Result("v2")
	require.True(t, known)
	assert.Equal(t, 2, r.Pending+r.Passed+len(r.Failures))
	r = await(t, p, "v2", complete)
	assert.Equal(t, 1, r.Passed)
	require.Len(t, r.Failures, 1)
	assert.Equal(t, bad.String()+": connection refused", r.Failures[0].String())
	assert.False(t, r.Oldest.Before(began))
	since := r.Failures[0].Since
	assert.False(t, since.Before(began))

	// It is tested again, and says since when it fails.
	again := await(t, p, "v2", func(n probe.Result) bool { return n.Oldest.After(r.Oldest) })
	assert.Equal(t, since, again.Failures[0].Since)

	// What a caller does to a result is its own affair.
	again.Failures[0].Seen = "mine"
	r, _ = p.Result("v2")
	assert.Equal(t, "connection refused", r.Failures[0].Seen)

	p.Set(nil)
	_, known = p.Result("v2")
	assert.False(t, known)
}

func TestProberKeepsWhatStays(t *testing.T) {
	p := prober(t)
	first, second, third := listen(t, hang), listen(t, hang), nobody(t)
	p.Set(target(tcp(), first, second))
	await(t, p, "v2", complete)
	endpoints := []netip.AddrPort{second, third}
	p.Set(target(tcp(), endpoints...))
	r, _ := p.Result("v2")
	assert.Equal(t, []int{1, 1}, []int{r.Passed, r.Pending + len(r.Failures)}, "the one that stays is known, the one that went is not counted")
	r = await(t, p, "v2", complete)
	assert.Equal(t, []int{1, 1}, []int{r.Passed, len(r.Failures)})
	endpoints[0] = third // what was handed over is not kept
	p.Set(target(tcp(), endpoints...))
	r, _ = p.Result("v2")
	assert.Equal(t, []int{0, 1}, []int{r.Passed, len(r.Failures)})

	// Another probe is another target: nothing that was known counts for it.
	web := get(v1alpha1.HTTPProbe{})
	p.Set(target(web, second))
	await(t, p, "v2", complete)
	web.HTTP.Path = "/another" // nor is the probe kept
	p.Set(target(web, second))
	r, _ = p.Result("v2")
	assert.Equal(t, []int{0, 1}, []int{r.Passed, r.Pending}, "hang never answers, so nothing is known within a second")
	r = await(t, p, "v2", complete)
	require.Len(t, r.Failures, 1)
	assert.Equal(t, "accepts, but an HTTP answer did not come in time", r.Failures[0].Seen)
}

func TestProberTellsOfChanges(t *testing.T) {
	p := prober(t)
	var broken atomic.Bool
	to := listen(t, func(c net.Conn) {
		if broken.Load() {
			_, _ = c.Read(make([]byte, 1))
			reset(c)
			return
		}
		says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")(c)
	})
	told := func(why string) {
		t.Helper()
		select {
		case <-p.Changed():
		case <-time.After(patience):
			t.Fatal("not told: ", why)
		}
	}
	p.Set(target(get(v1alpha1.HTTPProbe{}), to))
	told("it passes")
	first := await(t, p, "v2", complete)
	assert.Equal(t, 1, first.Passed)
	await(t, p, "v2", func(r probe.Result) bool { return r.Oldest.Sub(first.Oldest) > 100*time.Millisecond })
	assert.Empty(t, p.Changed(), "it passes again and again, which is no news")
	broken.Store(true)
	told("it fails")
	failing := await(t, p, "v2", func(r probe.Result) bool { return len(r.Failures) == 1 })
	broken.Store(false)
	told("it passes again")
	await(t, p, "v2", func(r probe.Result) bool { return r.Passed == 1 })
	broken.Store(true)
	told("it fails again")
	again := await(t, p, "v2", func(r probe.Result) bool { return len(r.Failures) == 1 })
	assert.True(t, again.Failures[0].Since.After(failing.Failures[0].Since), "since it failed again, not since it first did")
}

// A target that is not wanted any more is not tested any more, and leaves no goroutine; nor does Close, whatever is under way.
func TestProberLeavesNothing(t *testing.T) {
	var asked atomic.Int32
	to := listen(t, func(net.Conn) { asked.Add(1) })
	before := runtime.NumGoroutine()
	gone := func() { // not Eventually, which has goroutines
		t.Helper()
		for until := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				all := make([]byte, 64<<10)
				t.Fatalf("goroutines are left:\n%s", all[:runtime.Stack(all, true)])
			}
		}
	}
	p := prober(t)
	for range 20 {
		p.Set(map[string]probe.Target{
			"v1": {Probe: tcp(), Endpoints: []netip.AddrPort{to}},
			"v2": {Probe: tcp(), Endpoints: []netip.AddrPort{to, nobody(t)}},
		})
		p.Set(target(get(v1alpha1.HTTPProbe{}), to)) // hangs
		p.Set(nil)
	}
	// The listener has a goroutine a connection, until its end; those of these targets are to go by themselves.
	gone()
	n := asked.Load()
	time.Sleep(100 * time.Millisecond)
	assert.Equal(t, n, asked.Load(), "it is still tested")

	p.Set(target(tcp(), full(t)))
	for begun := false; !begun; { // the test of it is under way
		begun = runtime.NumGoroutine() >= before+2
	}
	p.Close()
	assert.LessOrEqual(t, runtime.NumGoroutine(), before, "Close has not waited")
	_, known := p.Result("v2")
	assert.False(t, known)
	p.Set(target(tcp(), to))
	_, known = p.Result("v2")
	assert.False(t, known, "after Close nothing is wanted")
	gone()

	// The context ends it too.
	ctx, cancel := context.WithCancel(context.Background())
	q := probe.NewProber(ctx)
	q.Set(target(get(v1alpha1.HTTPProbe{}), to))
	cancel()
	q.Close()
	gone()
}
