package cluster

import (
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// board is what is known of all nodes: what they last said, and who is alive.
//
// Clocks of nodes differ, so once a Lease has been seen to be renewed only our own clock counts: a node
// is alive for the duration of its Lease after that. Of a Lease seen for the first time all there is
// is the time that it names, which is taken, but not beyond now: so a new coordinator does not
// count long dead nodes as alive. A node whose clock is slow by more than the duration counts as dead then,
// until its next renewal.
type board struct {
	mu    sync.Mutex
	nodes map[string]*nodeState
	names []string // sorted
}

type nodeState struct {
	report   *v1alpha1.NodeReport // nil: there is none
	renewal  time.Time            // as the Lease names it
	seen     time.Time            // when it was renewed, by our clock
	duration time.Duration        // of the Lease; 0: there is none
	alive    bool
}

func newBoard() *board { return &board{nodes: map[string]*nodeState{}} }

// node finds or makes the state of a node.
func (b *board) node(name string) *nodeState {
	n := b.nodes[name]
	if n == nil {
		n = &nodeState{}
		b.nodes[name] = n
		at, _ := slices.BinarySearch(b.names, name)
		b.names = slices.Insert(b.names, at, name)
	}
	return n
}

// tidy forgets a node of which nothing is left.
func (b *board) tidy(name string) {
	if n := b.nodes[name]; n != nil && n.report == nil && n.duration == 0 {
		delete(b.nodes, name)
		if at, ok := slices.BinarySearch(b.names, name); ok {
			b.names = slices.Delete(b.names, at, at+1)
		}
	}
}

// report takes a node's report, nil for none, and returns the VirtualServers for which that says something
// else than before; all: every one.
func (b *board) report(name string, report *v1alpha1.NodeReport) (changed []types.NamespacedName, all bool) {
	if report != nil && !slices.IsSortedFunc(report.Status.VirtualServers, compareEntries) {
		report = report.DeepCopy()
		slices.SortFunc(report.Status.VirtualServers, compareEntries)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.node(name)
	before := n.report
	n.report = report
	defer b.tidy(name)
	if (before == nil) != (report == nil) {
		return nil, true
	}
	if report == nil {
		return nil, false
	}
	return changedEntries(before.Status.VirtualServers, report.Status.VirtualServers), before.Status.Error != report.Status.Error
}

// changedEntries walks two sorted lists at once.
func changedEntries(before, after []v1alpha1.NodeVirtualServer) (changed []types.NamespacedName) {
	for len(before) > 0 || len(after) > 0 {
		var order int
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = compareEntries(before[0], after[0])
		}
		switch {
		case order < 0:
			changed, before = append(changed, keyOf(&before[0])), before[1:]
		case order > 0:
			changed, after = append(changed, keyOf(&after[0])), after[1:]
		default:
			if !sameButCounts(&before[0], &after[0]) {
				changed = append(changed, keyOf(&after[0]))
			}
			before, after = before[1:], after[1:]
		}
	}
	return changed
}

func keyOf(e *v1alpha1.NodeVirtualServer) types.NamespacedName {
	return types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
}

// renewed takes a node's Lease and says whether the node came alive or died by it.
func (b *board) renewed(lease *coordinationv1.Lease, now time.Time) bool {
	spec := lease.Spec
	if spec.HolderIdentity == nil || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.node(*spec.HolderIdentity)
	switch at := spec.RenewTime.Time; {
	case n.duration == 0:
		n.seen = at
		if at.After(now) {
			n.seen = now
		}
	case !at.Equal(n.renewal):
		n.seen = now
	}
	n.renewal, n.duration = spec.RenewTime.Time, time.Duration(*spec.LeaseDurationSeconds)*time.Second
	return n.look(now)
}

// released takes note that a node's Lease is gone.
func (b *board) released(lease *coordinationv1.Lease) bool {
	if lease.Spec.HolderIdentity == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.node(*lease.Spec.HolderIdentity)
	changed := n.alive
	n.alive, n.duration = false, 0
	b.tidy(*lease.Spec.HolderIdentity)
	return changed
}

// expire says whether a node died, or came alive, by now.
func (b *board) expire(now time.Time) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		changed = n.look(now) || changed
	}
	return changed
}

// calm is how long no Lease of a live node can run out, and most at most.
func (b *board) calm(now time.Time, most time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		if n.alive {
			most = min(most, n.seen.Add(n.duration).Sub(now))
		}
	}
	return max(most, 0)
}

// look brings alive up to date and says whether that changed it.
func (n *nodeState) look(now time.Time) bool {
	alive := n.duration > 0 && now.Before(n.seen.Add(n.duration))
	changed := alive != n.alive
	n.alive = alive
	return changed
}

// view is what the nodes say of one VirtualServer. A node that is not alive and has no report is none.
func (b *board) view(key types.NamespacedName) (live, dead []Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range b.names {
		state := b.nodes[name]
		n := Node{Name: name}
		if r := state.report; r != nil {
			n.Error = r.Status.Error
			if at, ok := slices.BinarySearchFunc(r.Status.VirtualServers, key, func(e v1alpha1.NodeVirtualServer, k types.NamespacedName) int {
				if c := strings.Compare(e.Namespace, k.Namespace); c != 0 {
					return c
				}
				return strings.Compare(e.Name, k.Name)
			}); ok {
				n.Entry = &r.Status.VirtualServers[at]
			}
		}
		switch {
		case state.alive:
			live = append(live, n)
		case state.report != nil:
			dead = append(dead, n)
		}
	}
	return live, dead
}
