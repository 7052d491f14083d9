package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// kernel is all that one reading of the kernel gave.
type kernel struct {
	generation uint32 // of nftables, read before the table was
	rules      nft.Ruleset
	intact     bool
	noRules    error // why there are no nftables; nil where there are
	sysctls    []node.SysctlDiff
	device     node.Device
}

// plan is what one round is about to do, in the order of its fields: what has to be there before
// packets come is first. The addresses are last: at one that the node holds and that has no virtual server, it refuses connections.
type plan struct {
	sysctls   []node.SysctlDiff
	nft       []nft.Op
	ipvs      []ipvs.Op
	device    []node.DeviceOp
	conflicts []Conflict
}

func (p plan) empty() bool { return len(p.sysctls)+len(p.nft)+len(p.ipvs)+len(p.device) == 0 }

// Ops are the plan's ops in order, each printing as the command that it equals.
func (p plan) Ops() []fmt.Stringer {
	var ops []fmt.Stringer
	ops = appendOps(ops, p.sysctls)
	ops = appendOps(ops, p.nft)
	ops = appendOps(ops, p.ipvs)
	return appendOps(ops, p.device)
}

func appendOps[T fmt.Stringer](ops []fmt.Stringer, more []T) []fmt.Stringer {
	for _, op := range more {
		ops = append(ops, op)
	}
	return ops
}

// pending are the owners of virtual servers that a plan changes or cannot have, but for what it
// deletes: a real server that has drained serves no more either way.
func (r *Reconciler) pending(p plan) map[types.NamespacedName]bool {
	out := make(map[types.NamespacedName]bool, len(p.conflicts))
	var of ipvs.Key // that v is of: ops on one virtual server follow one another
	var v *VirtualServer
	for _, op := range p.ipvs {
		if op.Service.Key != of {
			of, v = op.Service.Key, r.want(op.Service.Key)
		}
		if v != nil && op.Verb != ipvs.DelReal {
			out[v.Owner] = true
		}
	}
	for owner := range r.steering.onTheWay {
		out[owner] = true
	}
	for _, c := range p.conflicts {
		out[c.Server.Owner] = true
	}
	return out
}

// schedulers are those that a plan asks IPVS for.
func (p plan) schedulers() map[string]bool {
	out := make(map[string]bool)
	for _, op := range p.ipvs {
		if op.Verb == ipvs.AddService || op.Verb == ipvs.EditService {
			out[op.Service.Scheduler] = true
		}
	}
	return out
}

// read reads the kernel; of the IPVS table what is asked for, the rest is as it was last read. Our
// nftables table is read only when anything in nftables has changed since it was last seen.
func (r *Reconciler) read(ctx context.Context, what *touched) (kernel, error) {
	var k kernel
	count, _ := r.count()
	whole := r.table.whole
	err := r.table.read(ctx, r.IPVS, what)
	if err != nil {
		return k, err
	}
	if r.table.whole != whole {
		r.table.asOf = count // of before the reading: what changes meanwhile is read again
	}
	k.generation, err = r.NFT.Generation()
	switch {
	case errors.Is(err, nft.ErrUnsupported):
		k.noRules = err
	case err != nil:
		return k, fmt.Errorf("reading nftables' generation: %w", err)
	case k.generation == r.rulesSeen.generation:
		k.rules, k.intact = r.rulesSeen.rules, r.rulesSeen.intact
	default:
		rules, state, err := r.NFT.Read()
		if err != nil {
			return k, fmt.Errorf("reading the nftables table: %w", err)
		}
		k.rules, k.intact, k.generation = rules, state.Intact, state.Generation
		r.rulesSeen.generation, r.rulesSeen.rules, r.rulesSeen.intact = k.generation, rules, state.Intact
	}
	if k.sysctls, err = r.Node.CheckSysctls(node.Sysctls(r.target.ipv6)); err != nil {
		return k, err
	}
	if k.device, err = r.Node.ReadDevice(); err != nil {
		return k, err
	}
	return k, nil
}

// plan is what leads from what was read to the target.
func (r *Reconciler) plan(have kernel, what *touched) plan {
	p := plan{sysctls: have.sysctls}
	// A virtual server that drains keeps its masquerade and its address until it is gone.
	masquerade, addresses := r.target.Masquerade, r.target.Addresses
	cloned := false
	for i := range r.table.services {
		key := r.table.services[i].Key
		if r.target.Servers[key] != nil || !r.ledger.Owns(key) {
			continue
		}
		if key.Mark != 0 {
			// A lane does not say which addresses its connections came by: all that there are stay until it has drained.
			if o := r.ledger.Owned[key]; len(r.target.ByOwner[o.Owner]) == 0 {
				addresses = append(addresses[:len(addresses):len(addresses)], have.device.Addresses...)
			}
			continue
		}
		if class, ok := have.rules.Virtual[MasqueradeElement(key)]; ok {
			if !cloned {
				masquerade.Virtual, cloned = maps.Clone(masquerade.Virtual), true
			}
			masquerade.Virtual[MasqueradeElement(key)] = class
		}
		if slices.Contains(have.device.Addresses, key.Addr) {
			addresses = append(addresses[:len(addresses):len(addresses)], key.Addr)
		}
	}
	masquerade, addresses = prepare(&r.target, have.device, masquerade, addresses)
	p.device = node.DiffDevice(addresses, have.device)
	masquerade.Steering = r.steering.rules()
	if have.noRules == nil {
		p.nft = nft.Diff(masquerade, have.rules, have.intact)
	}
	want, hold := r.wanted(what, have)
	var conflicts []Conflict
	p.ipvs, conflicts = planIPVS(want, &r.table, what, r.ledger, hold, time.Now())
	p.conflicts = r.noteConflicts(conflicts, what)
	return p
}

// wanted are the virtual servers of what as they are to be in this round, lanes included, and those that
// stay as they are: kube-proxy's again, waiting for their lanes, or lanes that a rule still puts packets on.
func (r *Reconciler) wanted(what *touched, have kernel) (Target, map[ipvs.Key]bool) {
	t, hold := Target{Servers: map[ipvs.Key]*VirtualServer{}, Held: r.target.Held}, map[ipvs.Key]bool{}
	add := func(key ipvs.Key) {
		v := r.want(key)
		if v == nil {
			return
		}
		t.Servers[key] = v
		c := r.steering.of[v.Owner]
		if key.Mark == 0 && (r.released[v.Owner] || c != nil && c.hold && !v.preview) {
			hold[key] = true
		}
	}
	if what != nil {
		for key := range what.keys {
			add(key)
		}
	} else {
		for key := range r.target.Servers {
			add(key)
		}
		for key := range r.ledger.Owned {
			if key.Mark != 0 {
				add(key)
			}
		}
	}
	for _, rule := range have.rules.Steering {
		if key := markKey(rule.Mark, rule.Addr); t.Servers[key] == nil {
			hold[key] = true
		}
	}
	return t, hold
}

// unmasqueraded is the error of a node without nftables whose virtual servers need them at rest too.
func (r *Reconciler) unmasqueraded(have kernel) error {
	if have.noRules == nil || len(r.target.Masquerade.Virtual) == 0 {
		return nil
	}
	return fmt.Errorf("nothing is masqueraded, which %d virtual servers need (forwarding tunnel and direct do not): %w", len(r.target.Masquerade.Virtual), have.noRules)
}

// withoutScheduler leaves out what would have IPVS load the scheduler by itself, which may hang it (package
// ipvs says how), and with that the rest of those virtual servers.
func withoutScheduler(ops []ipvs.Op, name string) []ipvs.Op {
	left := map[ipvs.Key]bool{}
	var out []ipvs.Op // the plan itself is read back by what it says
	for _, op := range ops {
		if op.Service.Scheduler == name && (op.Verb == ipvs.AddService || op.Verb == ipvs.EditService) {
			left[op.Service.Key] = true
		}
		if !left[op.Service.Key] {
			out = append(out, op)
		}
	}
	return out
}

// withoutBehind leaves out what is to be rewritten behind rules that could not be made.
func (r *Reconciler) withoutBehind(ops []ipvs.Op) []ipvs.Op {
	var out []ipvs.Op
	for _, op := range ops {
		if o := r.ledger.Owned[op.Service.Key]; op.Service.Mark == 0 && o != nil && r.steering.of[o.Owner] != nil && r.steering.of[o.Owner].behind {
			continue
		}
		out = append(out, op)
	}
	return out
}

// noteConflicts gives all conflicts there are, those that were not looked at included.
func (r *Reconciler) noteConflicts(found []Conflict, what *touched) []Conflict {
	if what == nil || r.conflicts == nil {
		r.conflicts = map[ipvs.Key]Conflict{}
	}
	if what != nil {
		for key := range what.keys {
			delete(r.conflicts, key)
		}
	}
	for _, c := range found {
		r.conflicts[c.Key] = c
	}
	return slices.SortedFunc(maps.Values(r.conflicts), func(a, b Conflict) int { return compareKeys(a.Key, b.Key) })
}

// apply runs a plan, in its order. What fails is joined and does not keep the rest from being done.
func (r *Reconciler) apply(ctx context.Context, p plan) error {
	started := time.Now()
	if r.Log.WithFields(nil).Logger.IsLevelEnabled(logrus.DebugLevel) {
		for _, op := range p.Ops() {
			r.Log.Debug(op.String())
		}
	}
	var failed []error
	for name := range p.schedulers() {
		if err := r.Node.EnsureScheduler(name); err != nil {
			failed = append(failed, err)
			p.ipvs = withoutScheduler(p.ipvs, name)
		}
	}
	if len(p.sysctls) > 0 {
		if err := r.Node.SetSysctls(p.sysctls); err != nil {
			failed = append(failed, err)
		}
	}
	if len(p.nft) > 0 {
		if err := r.NFT.Commit(p.nft); err != nil {
			failed = append(failed, fmt.Errorf("writing the nftables table: %w", err))
			p.ipvs = r.withoutBehind(p.ipvs)
		}
	}
	if len(p.ipvs) > 0 {
		before, _ := r.count()
		if err := r.IPVS.Apply(ctx, p.ipvs); err != nil {
			r.disown(err)
			failed = append(failed, fmt.Errorf("writing the IPVS table: %w", err))
		}
		// Our own changes are read back one by one. If the count has moved by others too, it stays apart.
		if after, _ := r.count(); before == r.table.asOf && after-before == ipvs.PerCall*uint64(len(p.ipvs)) {
			r.table.asOf = after
		}
	}
	if len(p.device) > 0 {
		if err := r.Node.ApplyDevice(p.device); err != nil {
			failed = append(failed, err)
		}
	}
	r.Log.WithField("ops", len(p.ipvs)+len(p.nft)+len(p.device)+len(p.sysctls)).
		WithField("ms", float64(time.Since(started).Microseconds())/1000).Info("applied a plan")
	return errors.Join(failed...)
}
