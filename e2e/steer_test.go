package e2e

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/internal/lab"
)

// portsEach is how many ports of a pod are backends, which makes many real servers of few addresses.
const portsEach = 10

// manyBackends has each backend of the lab answer on more ports, as real servers of their own.
func (w *world) manyBackends(colour string) {
	w.t.Helper()
	var all []lab.Endpoint
	for _, b := range w.Colour(colour) {
		for i := 1; i < portsEach; i++ {
			more := b.OnPort(b.Addr.Port() + uint16(i))
			require.NoError(w.t, more.Start())
			w.t.Cleanup(more.Stop)
		}
		all = append(all, lab.Endpoint{Addr: b.Addr.Addr(), Ready: true})
	}
	for i := 1; i < portsEach; i++ {
		require.NoError(w.t, w.manifests.WriteSliceOn(colour, 80+uint16(i), all...))
	}
}

// Five hundred real servers a colour: a switch is one instant all the same. No connection goes wrong, and none to the
// old colour starts after one to the new has completed, whichever of the real servers it meets.
// The load stays below the 4,096 connections at which the table of Linux 7.x grows, which resets reused ports.
func TestKernelSwitchManyRealServers(t *testing.T) {
	crowd{pods: 50, scheduler: "{name: rr}", rate: 15, times: switches(t, 20)}.switchOften(t, func(*world) {})
}

// The same in slow motion: the scheduler makes its table of 4,093 rows anew at each write, and the daemon gives way to
// everybody. So connections come between any two writes, and whatever a cut-over leaves open is met by some: this
// test it is that scripts/breaks breaks.
func TestKernelSwitchInSlowMotion(t *testing.T) {
	crowd{pods: 12, scheduler: "{name: mh, flags: [mh-port]}", rate: 20, times: slices.Values([]int{0, 1, 2, 3, 4})}.switchOften(t, (*world).giveWay)
}

// giveWay has the daemon give way to whoever else wants to run, but not for good: on a busy machine the load takes all there is.
func (w *world) giveWay() {
	w.t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.daemon.Pid()))
	require.NoError(w.t, err)
	for _, thread := range threads { // those that they make inherit it
		id, err := strconv.Atoi(thread.Name())
		require.NoError(w.t, err)
		require.NoError(w.t, unix.Setpriority(unix.PRIO_PROCESS, id, 10))
	}
}

// crowd is a number of pods with ten real servers each, in each of two colours.
type crowd struct {
	pods      int
	scheduler string
	rate      int           // new connections a second, beside 15 of clients that use ports again
	times     iter.Seq[int] // to switch
}

func (c crowd) switchOften(t *testing.T, prepare func(*world)) {
	t.Helper()
	colours := []lab.Colour{{Name: "v1", Backends: c.pods}, {Name: "v2", Backends: c.pods}}
	w := newWorld(t, lab.Config{Colours: colours, Clients: 3}, lab.Manifests{Scheduler: c.scheduler})
	for _, c := range colours {
		w.manyBackends(c.Name)
	}
	serves := func(colour string) error {
		table, err := w.Node().Table()
		if err != nil {
			return err
		}
		v, ok := table.Find("TCP", w.vip)
		want := lab.Addrs(w.Colour(colour))
		if got := len(v.Serving()); !ok || got != len(want)*portsEach {
			return fmt.Errorf("%d real servers serve, want %d", got, len(want)*portsEach)
		}
		for _, at := range v.Serving() {
			if !slices.ContainsFunc(want, func(backend netip.AddrPort) bool { return backend.Addr() == at.Addr() }) {
				return fmt.Errorf("%s is none of %s", at, colour)
			}
		}
		return nil
	}
	var err error
	w.daemon, err = w.Run()
	require.NoError(t, err)
	w.eventually(patience, "all of v1 serve", func() error { return serves("v1") })
	prepare(w)
	held := w.open(5)
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs[:2], Rate: c.rate, Clients: 6})
	again := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs[2:], Ports: ports(5000, 8), Rate: 15, Clients: 3, Ending: lab.Aborts})
	require.NoError(t, run.Await(10, patience))
	began := time.Now()
	var done []turn
	right := func(reports ...lab.Report) {
		for _, report := range reports {
			healthy(t, report)
			w.oneInstantEach(report, began, done)
		}
	}
	for i := range c.times {
		old, next := colours[i%2].Name, colours[(i+1)%2].Name
		done = append(done, w.turn(old, next))
		require.NoError(t, serves(next))
		require.NoError(t, run.Await(2, patience)) // to the new one
		right(run.Report(), again.Report())        // what is wrong is wrong at once: a broken step need not be met five times
	}
	t.Logf("%d switches of %d real servers in %v", len(done), c.pods*portsEach, time.Since(began).Round(time.Millisecond))
	w.intact("v1", held)
	inOrder, portsAgain := run.Stop(), again.Stop()
	t.Logf("in order: %v; ports again: %v", inOrder, portsAgain)
	right(inOrder, portsAgain)
}

// On a node where kube-proxy in ipvs mode deletes every address-keyed virtual server that it did not make: the first
// time ours is made again by mark, and from then on nothing of ours is there to delete. A switch is one
// instant, and open connections live.
func TestKernelSteeringByMark(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 2}, lab.Manifests{})
	_, err := w.Node().Run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
	require.NoError(t, err)
	w.start("v1")
	deletes := func() { // as kube-proxy does at each of its syncs
		text, err := w.Node().Run("ipvsadm", "-Sn")
		require.NoError(t, err)
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); f[0] == "-A" && f[1] == "-t" {
				_, _ = w.Node().Run("ipvsadm", "-D", "-t", f[2]) // the daemon may be faster
			}
		}
	}
	answers := func(colour string) error {
		c := lab.Load{From: w.Client, Target: w.vip}.Once()
		if c.Colour != colour {
			return fmt.Errorf("%v", c)
		}
		return nil
	}
	require.NoError(t, answers("v1"))
	deletes()
	w.eventually(patience, "it serves by mark", func() error { return answers("v1") })
	w.eventually(patience, "and says why", func() error {
		if r := w.call("status", "-o", "json"); !strings.Contains(r.Stdout, `"steering":"Mark"`) && !strings.Contains(r.Stdout, `"steering": "Mark"`) {
			return fmt.Errorf("%s", r.Stdout)
		}
		return nil
	})
	r := w.call("status")
	require.Contains(t, r.Stdout, "steering: Mark, since kube-proxy", "%v", r)
	require.Contains(t, r.Stdout, "from TCP "+w.vip.String(), "%v", r)
	r = w.call("list", "-n", "--colour")
	require.Contains(t, r.Stdout, "(default/myapp, ", "%v", r)
	require.Contains(t, r.Stdout, "TCP "+w.vip.String(), "%v", r)
	t.Log(r.Stdout)
	held := w.open(5)
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 60, Clients: 6})
	node := w.Start(lab.Load{From: w.Node(), Target: w.vip, Rate: 10, Clients: 2})
	began := time.Now()
	var done []turn
	for i := range 10 {
		old, next := []string{"v1", "v2"}[i%2], []string{"v2", "v1"}[i%2]
		deletes()
		done = append(done, w.turn(old, next))
		require.NoError(t, answers(next), "at once after switch %d", i)
		time.Sleep(50 * time.Millisecond)
	}
	require.NotContains(t, w.table(), "-A -t", "no address-keyed one")
	w.intact("v1", held)
	for name, report := range map[string]lab.Report{"in order": run.Stop(), "from the node": node.Stop()} {
		t.Logf("%s: %v", name, report)
		healthy(t, report)
		w.oneInstantEach(report, began, done)
	}
	w.daemon.Kill()
	require.NoError(t, answers("v1"))
	w.daemon, err = w.Run()
	require.NoError(t, err)
	w.switchTo("v2")
	require.NoError(t, answers("v2"))
}

// Clients of chosen networks get the previewed colour on the production address, everybody on the preview's
// node port, and nobody else by accident: through switches too.
func TestKernelPreview(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 3}, lab.Manifests{})
	tester, user := w.ClientAddrs[2], w.ClientAddrs[0]
	w.manifests.Preview = fmt.Sprintf("{colour: v2, nodePort: 31080, sources: [%s/32]}", tester)
	require.NoError(t, w.manifests.WriteVirtualServer("v1"))
	w.start("v1")
	get := func(from netip.Addr, port uint16) string {
		return lab.Load{From: w.Client, Target: netip.AddrPortFrom(w.vip.Addr(), port), Local: []netip.Addr{from}}.Once().Colour
	}
	w.eventually(patience, "testers get v2", func() error {
		if got := get(tester, 30080); got != "v2" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	require.Equal(t, "v2", get(user, 31080))
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: []netip.Addr{user}, Rate: 60, Clients: 4})
	tests := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: []netip.Addr{tester}, Rate: 20, Clients: 2})
	require.NoError(t, run.Await(20, patience))
	require.NoError(t, tests.Await(20, patience))
	for range 3 {
		w.switchTo("v2")
		w.switchTo("v1")
	}
	report, seen := run.Stop(), tests.Stop()
	healthy(t, report)
	healthy(t, seen)
	require.Len(t, seen.To("v2"), len(seen), "%v", seen)
	require.Equal(t, "v1", get(user, 30080))
	require.Equal(t, "v2", get(tester, 30080))

	// Without an endpoint of the previewed colour testers are refused, not shown another.
	require.NoError(t, w.manifests.WriteSlice("v2"))
	w.eventually(patience, "testers are refused", func() error {
		if got := get(tester, 30080); got != "" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	require.Equal(t, "v1", get(user, 30080))
}
