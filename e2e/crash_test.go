package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// A daemon that is killed in the middle of a switch, again and again: the next one has the kernel right
// within a second, traffic meets no error meanwhile, and no open connection is cut.
func TestKernelKilledDuringSwitch(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 2}, lab.Manifests{})
	w.start("v1")
	held := map[string]*lab.Sessions{"v1": w.open(5)}
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 40, Clients: 8, Ending: lab.Aborts})
	rng := rand.New(rand.NewPCG(1, 2))
	colours := []string{"v1", "v2"}
	var worst time.Duration
	kills, inTime := 0, 0 // and those that came before the daemon had finished
	for i := range upTo(50) {
		next := colours[(i+1)%2]
		// The edit is what a switch is to the daemon; it sees it a few ms later.
		require.NoError(t, w.manifests.WriteVirtualServer(next))
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
		w.daemon.Kill()
		kills++
		if w.serves(next) != nil {
			inTime++
		}
		began := time.Now()
		var err error
		w.daemon, err = w.Run()
		require.NoError(t, err)
		w.eventually(patience, "right again", func() error { return w.serves(next) })
		worst = max(worst, time.Since(began))
		if held[next] == nil {
			held[next] = w.open(5)
		}
	}
	t.Logf("%d of %d killed before they were done; right again after at most %v, start of the process included", inTime, kills, worst.Round(time.Millisecond))
	require.Less(t, worst, second)
	require.Greater(t, inTime, 5, "the kills come too late to mean anything")
	for colour, s := range held {
		w.intact(colour, s)
	}
	report := run.Stop()
	t.Log(report)
	healthy(t, report)
}

// SIGTERM leaves the kernel as it is, and a daemon that starts over a right kernel writes nothing.
func TestKernelRestartWritesNothing(t *testing.T) {
	w := newWorld(t, lab.Config{}, lab.Manifests{})
	watch := watchWrites(t)
	w.start("v1")
	w.switchTo("v2")
	written := len(watch.lines())
	require.NotZero(t, written, "the watch has to see the writes that there are")
	held := w.open(3)
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Rate: 40, Clients: 8})
	require.NoError(t, run.Await(10, patience))

	table, rules := w.table(), w.ruleset()
	written = len(watch.lines())
	require.NoError(t, w.daemon.Terminate(patience))
	require.Equal(t, table, w.table(), "SIGTERM changed the table")
	require.Equal(t, rules, w.ruleset(), "SIGTERM changed the rules")

	for range 3 {
		w.start("v2")
		// Long enough for a first pass and some that look for drift.
		w.eventually(patience, "a status by the new daemon", func() error { return w.verified("v2") })
		time.Sleep(1500 * time.Millisecond)
		require.NoError(t, w.daemon.Terminate(patience))
	}
	require.Empty(t, watch.lines()[written:], "writes by a daemon that had nothing to write")
	require.Equal(t, table, w.table())
	require.Equal(t, rules, w.ruleset())
	w.intact("v2", held)
	healthy(t, run.Stop())
}

// The same when it is killed instead: nothing that a dead daemon should have put back is missing.
func TestKernelRestartAfterKill(t *testing.T) {
	w := newWorld(t, lab.Config{}, lab.Manifests{})
	w.start("v1")
	w.eventually(patience, "verified", func() error { return w.verified("v1") })
	table, rules := w.table(), w.ruleset()
	w.daemon.Kill()
	require.Equal(t, table, w.table())
	watch := watchWrites(t)
	w.start("v1")
	time.Sleep(time.Second)
	require.Empty(t, watch.lines())
	require.Equal(t, table, w.table())
	require.Equal(t, rules, w.ruleset())
}
