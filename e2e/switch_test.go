package e2e

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// upTo counts to n, or, on a slow machine, to what was done in two minutes.
func upTo(n int) iter.Seq[int] { return within(2*time.Minute, n) }

// switches counts the switches of a long test: up to n, or with POINTSMAN_E2E_SWITCHES that many, whatever time they take.
func switches(t *testing.T, n int) iter.Seq[int] {
	text := os.Getenv("POINTSMAN_E2E_SWITCHES")
	if text == "" {
		return upTo(n)
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return within(24*time.Hour, n)
}

func within(limit time.Duration, n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		enough := time.Now().Add(limit)
		for i := 0; i < n && time.Now().Before(enough) && yield(i); i++ {
		}
	}
}

func ports(from, n int) []uint16 {
	all := make([]uint16, n)
	for i := range all {
		all[i] = uint16(from + i)
	}
	return all
}

// turn is one switch that was made.
type turn struct {
	old, new        string
	asked, returned time.Time
}

// turn switches from one colour to another: by an edit, since in a guest the command's start takes longer than the switch.
func (w *world) turn(old, new string) turn {
	w.t.Helper()
	asked := time.Now()
	require.NoError(w.t, w.manifests.WriteVirtualServer(new))
	w.eventually(3*patience, "switched to "+new, func() error {
		if s := w.myapp(); s == nil || !s.Verified || s.Status.Active != new {
			return fmt.Errorf("the daemon's status is %+v", s)
		}
		return nil
	})
	return turn{old, new, asked, time.Now()}
}

// oneInstantEach fails for a connection that reached the old colour though it started after one to the new had completed.
func (w *world) oneInstantEach(report lab.Report, began time.Time, done []turn) {
	w.t.Helper()
	for i, s := range done {
		from, to := began, time.Now()
		if i > 0 {
			from = done[i-1].returned
		}
		if i+1 < len(done) {
			to = done[i+1].asked
		}
		// One whose SYN came again after the next switch tells nothing of this one.
		settled := report.Since(from).Until(to).Where(func(c lab.Connection) bool { return c.Answered.Before(to) })
		require.Empty(w.t, settled.Mixed(s.old, s.new).Lines(), "switch %d", i)
	}
}

// mayReach are the colours that a connection may have reached: the one that was active when it
// started, for sure, and those that a switch was on its way to before its handshake was over.
func mayReach(done []turn, first string, c lab.Connection) []string {
	colours := []string{first}
	for _, s := range done {
		switch {
		case !s.returned.After(c.Start):
			colours = []string{s.new}
		case s.asked.Before(c.Connected):
			colours = append(colours, s.new)
		}
	}
	return colours
}

// Up to two hundred switches under load, round and round three colours of ten real servers: no connection is refused, reset or
// left without an answer; once a switch has returned no new connection reaches another colour, not
// from a source port that is used again either; and what was open before goes on.
func TestKernelSwitchUnderLoad(t *testing.T) {
	colours := []lab.Colour{{Name: "v1", Backends: 10}, {Name: "v2", Backends: 10}, {Name: "v3", Backends: 10}}
	w := newWorld(t, lab.Config{Colours: colours, Clients: 4}, lab.Manifests{})
	w.start("v1")

	// IPVS remembers a connection that has ended for two minutes, and the table of Linux 7.x grows at 4,096 of them, which
	// resets reused ports (growth_test.go): the load stays below that however long the switches take.
	runs := map[string]*lab.Run{
		"in order":              w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs[:2], Rate: 12, Clients: 4}),
		"ports again, in order": w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs[2:3], Ports: ports(5000, 8), Rate: 15, Clients: 4, Ending: lab.ServerEnds}),
		"ports again, aborted":  w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs[3:], Ports: ports(5000, 8), Rate: 15, Clients: 4, Ending: lab.Aborts}),
		"from the node":         w.Start(lab.Load{From: w.Node(), Target: w.vip, Rate: 5, Clients: 2}),
	}
	var done []turn
	held := map[string]*lab.Sessions{"v1": w.open(5)}
	began, active := time.Now(), "v1"
	for i := range switches(t, 200) {
		next := colours[(i+1)%len(colours)].Name
		done = append(done, w.turn(active, next))
		require.NoError(t, w.serves(next), "at once after switch %d", i)
		if held[next] == nil {
			held[next] = w.open(5)
		}
		active = next
	}
	took := time.Since(began)
	for _, colour := range colours {
		w.intact(colour.Name, held[colour.Name])
	}
	for name, run := range runs {
		report := run.Stop()
		t.Logf("%s: %v; %d had to send their SYN again", name, report, len(report.Where(lab.Connection.SYNAgain)))
		healthy(t, report)
		for _, c := range report {
			require.Contains(t, mayReach(done, "v1", c), c.Colour, "%s: %v", name, c)
		}
		w.oneInstantEach(report, began, done)
	}
	for colour, s := range held {
		for _, each := range s.Close() {
			require.True(t, each.Alive(), "%s: %v", colour, each)
		}
	}
	t.Logf("%d switches in %v", len(done), took.Round(time.Millisecond))
}

// What was switched away from is kept while it has connections and deleted when it has none.
func TestKernelDrain(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 4}, {Name: "v2", Backends: 2}}}, lab.Manifests{})
	w.start("v1")
	held := w.open(2) // to two of the four
	w.switchTo("v2")
	busy := map[netip.Addr]bool{}
	for _, s := range held.Report() {
		busy[s.Backend] = true
	}
	require.Len(t, busy, 2)
	draining := func() (addrs []netip.Addr) {
		table, err := w.Node().Table()
		require.NoError(t, err)
		v, ok := table.Find("TCP", w.vip)
		require.True(t, ok)
		for _, a := range v.Draining() {
			addrs = append(addrs, a.Addr())
		}
		return addrs
	}
	w.eventually(patience, "the idle ones are deleted, the busy ones kept", func() error {
		if got := draining(); len(got) != 2 || !busy[got[0]] || !busy[got[1]] {
			return fmt.Errorf("%v drain; busy are %v", got, busy)
		}
		return nil
	})
	w.intact("v1", held)
	require.False(t, w.status().retirable("myapp"), "v1 has connections")
	for _, s := range held.Abort() {
		require.True(t, s.Alive(), s)
	}
	// IPVS remembers a connection that was reset for 10 s.
	w.eventually(40*time.Second, "all of v1 is deleted", func() error {
		if got := draining(); len(got) > 0 {
			return fmt.Errorf("%v drain", got)
		}
		return nil
	})
	w.eventually(patience, "v1 is safe to retire", func() error {
		if !w.status().retirable("myapp") {
			return fmt.Errorf("not yet: %s", w.call("status"))
		}
		return nil
	})
}

// IPVS's hooks are there only while a virtual server is: where the last one is not declared any more, it stays, at
// weight 0 and refusing new connections, until its last connection has ended.
func TestKernelDeletedWhileConnectionsLast(t *testing.T) {
	for _, steering := range []string{"Address", "Mark"} {
		t.Run(steering, func(t *testing.T) {
			w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 2}}}, lab.Manifests{Steering: steering})
			_, err := w.Run()
			require.NoError(t, err)
			once := lab.Load{From: w.Client, Target: w.vip, Ending: lab.Aborts} // IPVS remembers one that was reset for 10 s
			w.eventually(patience, "v1 serves", func() error {
				if c := once.Once(); c.Colour != "v1" {
					return fmt.Errorf("%v", c)
				}
				return nil
			})
			held := w.open(2)
			require.NoError(t, os.Remove(w.manifests.VirtualServerFile()))
			w.eventually(patience, "new connections are refused", func() error {
				if c := once.Once(); c.Class != lab.Refused {
					return fmt.Errorf("%v", c)
				}
				return nil
			})
			time.Sleep(2 * time.Second) // passes go by
			w.intact("v1", held)
			table, err := w.Node().Table()
			require.NoError(t, err)
			require.NotEmpty(t, table)
			for _, v := range table {
				require.Empty(t, v.Serving())
			}
			for _, s := range held.Abort() {
				require.True(t, s.Alive(), s)
			}
			w.eventually(2*patience, "nothing is left", func() error {
				if table, err := w.Node().Table(); err != nil || len(table) > 0 {
					return fmt.Errorf("%v %w", table, err)
				}
				return nil
			})
		})
	}
}

// The exit status says what became of a switch.
func TestKernelSwitchExitStatus(t *testing.T) {
	colours := []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}, {Name: "v3", Backends: 1}}
	w := newWorld(t, lab.Config{Colours: colours}, lab.Manifests{})
	require.NoError(t, w.manifests.WriteSlice("v3", lab.Endpoint{Addr: w.Colour("v3")[0].Addr.Addr(), Ready: false}))
	w.start("v1")
	declared := func() string {
		text, err := os.ReadFile(w.manifests.VirtualServerFile())
		require.NoError(t, err)
		return string(text)
	}
	before, table := declared(), w.table()

	r := w.call("rollback", "myapp", "--wait")
	require.NotZero(t, r.Status, "there is nothing to roll back to: %v", r)
	r = w.call("switch", "myapp", "v3", "--wait")
	require.Equal(t, 3, r.Status, "v3 has no ready endpoint: %v", r)
	r = w.call("switch", "myapp", "v9", "--wait")
	require.Equal(t, 3, r.Status, "there is no v9: %v", r)
	r = w.call("switch", "default/nosuch", "v2")
	require.NotZero(t, r.Status, "there is no such virtual server: %v", r)
	require.Equal(t, before, declared(), "what was refused changes nothing in the file")
	require.Equal(t, table, w.table(), "nor in the kernel")

	r = w.call("switch", "default/myapp", "v2", "--wait")
	require.Zero(t, r.Status, "%v", r)
	require.NoError(t, w.serves("v2"))
	require.NotEqual(t, before, declared())
	r = w.call("rollback", "myapp", "--wait")
	require.Zero(t, r.Status, "%v", r)
	require.NoError(t, w.serves("v1"))
	require.Equal(t, before, declared(), "there and back again leaves every byte of the file")

	require.NoError(t, w.daemon.Terminate(patience))
	r = w.call("switch", "myapp", "v2", "--wait", "--timeout", "500ms")
	require.Equal(t, 4, r.Status, "no daemon is there to do it: %v", r)
	require.NoError(t, w.serves("v1"))
	w.start("v2")
}
