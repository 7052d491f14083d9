package sync

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// What the reconciler consumes. The kernel behind ipvs, nft and node, or their fakes.
type (
	// IPVS is the kernel's table of virtual servers.
	IPVS interface {
		Read(context.Context) ([]ipvs.ServiceInfo, error)
		Services(context.Context) ([]ipvs.ServiceInfo, error)
		RealServers(context.Context, ipvs.Key) ([]ipvs.RealInfo, error)
		Apply(context.Context, []ipvs.Op) error
	}
	// NFT is our nftables table. Generation changes whenever anything in nftables does.
	NFT interface {
		Generation() (uint32, error)
		Read() (nft.Ruleset, nft.State, error)
		Commit([]nft.Op) error
		Delete() error
	}
	// Node is what IPVS needs around it on the node.
	Node interface {
		Addresses() ([]netip.Addr, error)
		EnsureScheduler(name string) error
		CheckSysctls([]node.Sysctl) ([]node.SysctlDiff, error)
		SetSysctls([]node.SysctlDiff) error
		ReadDevice() (node.Device, error)
		ApplyDevice([]node.DeviceOp) error
		Changed() (<-chan struct{}, error)
	}
	// Changes counts the calls, of anybody, that change IPVS tables, and tells that there were some.
	Changes interface {
		Count() (uint64, error)
		Changed() <-chan struct{}
	}
	// Source gives what could get traffic; nil until it knows.
	Source interface {
		Snapshot() *endpoints.Snapshot
		Changed() <-chan struct{}
		// Failures counts the errors that were found in what it reads.
		Failures() uint64
	}
)

// How drift is found. Where the kernel tells of changes, of the IPVS table as of nftables and the node, it is
// looked for when it tells; restInterval is for what it does not tell of, the sysctls. Elsewhere the
// table has to be read, at some 3 µs a real server: one of up to driftEvery real servers each driftInterval, and
// a larger one the less often the larger it is, so that the cost at rest has a bound. What drains is
// looked at each driftInterval.
const (
	driftInterval = 400 * time.Millisecond
	driftEvery    = 2000
	restInterval  = 5 * time.Second
)

// wholeShare bounds what reading the whole table may cost while others write to it all the time: one part in so many.
const wholeShare = 5

// rounds is how often one pass reads, plans and applies before it gives up until the next.
// A cut-over takes six: lanes, rules, rewriting, no rules, lanes to weight 0, nothing left.
const rounds = 10

// Config is what a reconciler needs to know about its node.
type Config struct {
	NodeName     string
	StateDir     string
	NodePortsOn  []netip.Prefix // node addresses that serve node ports; empty: all of them
	ClusterCIDRs []netip.Prefix
	// Steering is how virtual servers are keyed that do not say so themselves; "" is Auto.
	Steering v1alpha1.Steering
	// Marks are ours to give; the zero value is [DefaultMarks].
	Marks Marks
}

// Reconciler is the node's one loop. One goroutine runs it and owns all that it knows.
type Reconciler struct {
	Config
	IPVS   IPVS
	NFT    NFT
	Node   Node
	Source Source
	// Changes is nil where the kernel does not count them.
	Changes Changes
	// RulesChanged tells that NFT.Generation may give another answer; nil where nothing does.
	RulesChanged <-chan struct{}
	// Listen, when not nil, sets Changes and RulesChanged after the first pass, which has the most to write: each write that is told of
	// costs more, and an element of nftables seven times as much.
	Listen func() error
	// NodeChanged tells that Node.Addresses or Node.ReadDevice may give another answer; nil where nothing does.
	NodeChanged <-chan struct{}
	// Prober and Calls are what rollouts want beside the kernel; nil where there is none. CallsAnswered tells of answers.
	Prober        Prober
	Calls         Calls
	CallsAnswered <-chan struct{}
	// Connections are watched while a rollout observes them; nil where they cannot be.
	Connections Connections
	Log         logrus.FieldLogger
	// Observed, when not nil, gets each status that differs from the one before. It must not change it, nor wait.
	Observed func(*Status)

	ledger *Ledger
	store  ledgerStore
	table  table
	status statusStore

	snapshot  *endpoints.Snapshot // the one that target was derived from
	inForce   map[types.NamespacedName]*endpoints.Server
	deriving  deriving
	addresses []netip.Addr
	target    Target
	conflicts map[ipvs.Key]Conflict         // as last planned
	draining  map[ipvs.Key]bool             // virtual servers of which real servers drain
	released  map[types.NamespacedName]bool // VirtualServers whose virtual servers are kube-proxy's again
	rollouts  rollouts
	watcher   *watcher
	steering  steering
	undoing   undoing
	undone    map[types.NamespacedName]string // what others undo, as last told
	rulesSeen struct {                        // our nftables table when it was last read
		generation uint32 // 0: never
		rules      nft.Ruleset
		intact     bool
	}
	lastError string
	lastPass  atomic.Int64 // Unix nanoseconds
}

// Run makes passes until ctx ends: when what is declared changes, when the node's addresses do, and
// now and then to find drift. It leaves the kernel as it is.
func (r *Reconciler) Run(ctx context.Context) error {
	ledger, err := LoadLedger(r.StateDir)
	if err != nil {
		return err
	}
	r.ledger, r.store.dir, r.status.dir, r.status.told = ledger, r.StateDir, r.StateDir, r.Observed
	var tableChanged <-chan struct{}
	if r.Changes != nil {
		tableChanged = r.Changes.Changed()
	}
	var probed <-chan struct{}
	if r.Prober != nil {
		probed = r.Prober.Changed()
	}
	var watched <-chan struct{}
	if r.Connections != nil {
		r.watcher = newWatcher(ctx, r.Connections, r.Log)
		defer r.watcher.running.Wait()
		watched = r.watcher.changed
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	due := time.Now() // of the next look for drift: changes do not put it off
	for {
		stale := true
		foreign := tableChanged
		if time.Now().Before(r.table.again) {
			foreign = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.Source.Changed():
		case <-r.NodeChanged:
			r.addresses = nil
		case <-foreign:
			stale = false
		case <-r.RulesChanged:
			stale = false
		case <-probed:
		case <-watched:
		case <-r.CallsAnswered:
		case <-timer.C:
			at := r.rollouts.dueAt
			stale = r.snapshot == nil || !at.IsZero() && !time.Now().Before(at)
		}
		if r.Source.Snapshot() == nil {
			timer.Reset(driftInterval)
			continue
		}
		next := time.Now().Add(r.pass(ctx, stale))
		if r.Listen != nil {
			if err := r.Listen(); err != nil {
				return err
			}
			if r.Changes != nil {
				tableChanged = r.Changes.Changed()
			}
			r.Listen, r.table.at, next = nil, nil, time.Now() // nobody has told of what changed until now
		}
		if !stale || next.Before(due) || !due.After(time.Now()) {
			due = next
		}
		// What is told of until then is not listened to.
		if tableChanged != nil && r.table.again.After(time.Now()) && r.table.again.Before(due) {
			due = r.table.again
		}
		wake := due
		if at := r.rollouts.dueAt; !at.IsZero() && at.Before(wake) {
			wake = at
		}
		timer.Reset(time.Until(wake))
	}
}

// LastPass is when the loop last did its work, the zero time before the first. Any goroutine may ask.
func (r *Reconciler) LastPass() time.Time {
	if at := r.lastPass.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// pass makes the kernel right once and says how long to wait before looking again. A declared change
// has what it touches read and written; without one the whole kernel is read, to find drift. What fails
// is joined, so that one failure does not keep the rest from being done.
func (r *Reconciler) pass(ctx context.Context, stale bool) time.Duration {
	defer func() { r.lastPass.Store(time.Now().UnixNano()) }()
	var failed []error
	before := r.target
	if err := r.derive(stale); err != nil {
		failed = append(failed, err)
	}
	what := r.scope(stale, before)
	if !stale && what != nil && len(what.keys) == 0 && !r.undoing.due(time.Now()) && r.atRest() {
		return restInterval
	}
	var seen observation
	if r.snapshot != nil {
		var err error
		if seen, err = r.converge(ctx, what); err != nil {
			failed = append(failed, err)
		}
		r.watch()
	}
	err := errors.Join(failed...)
	if ctx.Err() != nil {
		return driftInterval // told to stop in the middle: what failed is that, not the kernel
	}
	r.report(err)
	if err := r.status.save(r.observe(seen, err)); err != nil {
		r.report(err)
	}
	r.moves(time.Now())
	if _, counted := r.count(); counted {
		if len(r.draining) == 0 && r.lastError == "" && r.NodeChanged != nil && r.RulesChanged != nil {
			return restInterval
		}
		return driftInterval
	}
	reals := 0
	for i := range r.table.services {
		reals += len(r.table.services[i].Reals)
	}
	return max(driftInterval, driftInterval*time.Duration(reals)/driftEvery)
}

// scope is what a pass has to look at: everything after a failure, and when somebody else may have changed the
// table; else what the declaration changed, and what drains.
func (r *Reconciler) scope(stale bool, before Target) *touched {
	if r.lastError != "" || r.table.at == nil {
		return nil
	}
	what := &touched{keys: map[ipvs.Key]bool{}}
	switch {
	case stale:
		what = touchedBetween(before, r.target)
		for key, o := range r.ledger.Owned {
			if before.Held[o.Owner] != r.target.Held[o.Owner] {
				what.keys[key] = true
			}
		}
	case !r.current():
		return nil
	}
	for key := range r.draining {
		what.keys[key] = true
	}
	for owner := range r.steering.onTheWay {
		for _, key := range r.target.ByOwner[owner] {
			what.keys[key] = true
		}
	}
	return what
}

// current is whether the table is as it was last read, as far as the kernel tells.
func (r *Reconciler) current() bool {
	count, ok := r.count()
	return ok && count == r.table.asOf && time.Since(r.table.whole) < wholeEvery
}

// count is the kernel's count of changes, when it counts them.
func (r *Reconciler) count() (n uint64, ok bool) {
	if r.Changes == nil {
		return 0, false
	}
	n, err := r.Changes.Count()
	return n, err == nil
}

// atRest is whether what is not the IPVS table is as it was, too. What can't be read is for a pass to find.
func (r *Reconciler) atRest() bool {
	if r.NodeChanged == nil {
		return false
	}
	generation, err := r.NFT.Generation()
	if err != nil || generation != r.rulesSeen.generation {
		return false
	}
	sysctls, err := r.Node.CheckSysctls(node.Sysctls(r.target.ipv6))
	return err == nil && len(sysctls) == 0
}

// report logs an error once, not at every pass, and its end.
func (r *Reconciler) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == r.lastError {
		return
	}
	if err != nil {
		r.Log.WithError(err).Error("pass failed; traffic stays as it is and the pass is made again")
	} else {
		r.Log.Info("pass succeeded again")
	}
	r.lastError = text
}

// observation is what a pass saw in the end.
type observation struct {
	conflicts []Conflict
	pending   map[types.NamespacedName]bool // VirtualServers with something left to do
	looked    *touched                      // that the pass looked at
}

// converge reads the kernel, plans and applies until a plan is empty. The first round reads what is
// asked for, each later one what the round before wrote.
func (r *Reconciler) converge(ctx context.Context, what *touched) (observation, error) {
	var applyErr error
	var seen observation
	owners := r.owners(what)
	all := what // that this pass looks at, over its rounds
	for range rounds {
		had := r.ours(what)
		have, err := r.read(ctx, what)
		if err != nil {
			return seen, errors.Join(applyErr, err)
		}
		r.noteUndone(had, have.device.KubeProxy, time.Now())
		r.release(have.device.KubeProxy)
		r.adopt(what)
		r.steer(have, owners)
		look := r.keysOf(owners, all)
		r.noteDraining(look)
		plan := r.plan(have, look)
		seen = observation{plan.conflicts, r.pending(plan), look}
		r.claim(plan, look)
		if plan.empty() {
			r.forgetGone(look)
			return seen, errors.Join(r.store.save(r.ledger), r.unmasqueraded(have))
		}
		if err := r.store.save(r.ledger); err != nil {
			return seen, err // nothing is made that the next daemon would not know as ours
		}
		applyErr = r.apply(ctx, plan)
		what = touchedBy(plan.ipvs)
		all = look.and(what)
	}
	if applyErr == nil {
		applyErr = errors.New("the kernel does not hold what was written to it; another program may be undoing it (kube-proxy in ipvs mode? see `pointsman preflight`)")
	}
	return seen, applyErr
}
