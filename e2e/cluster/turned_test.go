package cluster

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/internal/lab"
)

// commits are the times of the nftables transactions on each node, as its kernel told of them: the first one after
// the decision is the node's cut-over.
type commits struct {
	mu sync.Mutex
	at map[*Node][]time.Time
}

// watchCommits watches until the test ends.
func (c *Cluster) watchCommits() *commits {
	c.t.Helper()
	w := &commits{at: map[*Node][]time.Time{}}
	for _, n := range c.Nodes {
		var conn *netlink.Conn
		require.NoError(c.t, n.Do(func() (err error) {
			conn, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
			return err
		}))
		var over sync.WaitGroup
		over.Go(func() {
			for {
				if _, err := conn.Receive(); err != nil {
					return
				}
				now := time.Now()
				w.mu.Lock()
				w.at[n] = append(w.at[n], now)
				w.mu.Unlock()
			}
		})
		c.t.Cleanup(func() {
			_ = conn.Close()
			over.Wait()
		})
	}
	return w
}

// after is the first transaction on the node after the time.
func (w *commits) after(n *Node, since time.Time) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at[n] {
		if at.After(since) {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("on %s there was no transaction since", n.Name())
}

// cutOver are how long after a time something was so on the first and on the last node.
type cutOver struct{ first, last time.Duration }

func (o cutOver) String() string {
	return fmt.Sprintf("%v to %v, skew %v", o.first.Round(100*time.Microsecond), o.last.Round(100*time.Microsecond), (o.last - o.first).Round(100*time.Microsecond))
}

func span(since time.Time, at []time.Time) cutOver {
	return cutOver{slices.MinFunc(at, time.Time.Compare).Sub(since), slices.MaxFunc(at, time.Time.Compare).Sub(since)}
}

// oneTurn requires of what began between two times that nothing was lost and that on no node a connection reached the
// old colour that began after one to the new colour was answered. It waits for some that began after: what takes
// longer is [Cluster.noneLost]'s.
func (c *Cluster) oneTurn(runs map[*Node]*lab.Run, from, to time.Time, old, new string) {
	c.t.Helper()
	c.someSince(runs, to)
	for n, run := range runs {
		report := run.Report().Since(from).Until(to)
		require.Empty(c.t, report.Lost().Lines(), "on %s, of %d", n.Name(), len(report))
		require.Empty(c.t, report.Mixed(old, new).Lines(), "on %s, from %s to %s", n.Name(), old, new)
		for _, colour := range keys(report.ByColour()) {
			require.Contains(c.t, []string{old, new}, colour, "on %s", n.Name())
		}
	}
}

// someSince waits until some connections of each load are over that began since then.
func (c *Cluster) someSince(runs map[*Node]*lab.Run, since time.Time) {
	c.t.Helper()
	var all errgroup.Group
	for n, run := range runs {
		all.Go(func() error {
			if err := run.AwaitSince(since, 6, Patience); err != nil {
				return fmt.Errorf("on %s: %w", n.Name(), err)
			}
			return nil
		})
	}
	require.NoError(c.t, all.Wait())
}

// only requires that since then every connection on every node was answered, and by the colour.
func (c *Cluster) only(runs map[*Node]*lab.Run, since time.Time, colour string) {
	c.t.Helper()
	c.someSince(runs, since)
	for n, run := range runs {
		report := run.Report().Since(since)
		require.Empty(c.t, report.Lost().Lines(), "on %s, of %d", n.Name(), len(report))
		require.Equal(c.t, []string{colour}, keys(report.ByColour()), "on %s", n.Name())
	}
}

// noneLost ends the loads, and requires that nothing of them was ever lost.
func (c *Cluster) noneLost(runs map[*Node]*lab.Run) {
	c.t.Helper()
	for n, run := range runs {
		report := run.Stop()
		require.Empty(c.t, report.Lost().Lines(), "on %s, of %d", n.Name(), len(report))
		c.t.Logf("on %s: %v", n.Name(), report)
	}
}
