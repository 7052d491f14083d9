package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// Plan is what a pass would do now, and what it could not do; it writes nothing.
func (r *Reconciler) Plan(ctx context.Context) (ops []fmt.Stringer, warnings []string, err error) {
	if r.ledger, err = LoadLedger(r.StateDir); err != nil {
		return nil, nil, err
	}
	if err := r.derive(true); err != nil {
		return nil, nil, err
	}
	have, err := r.read(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	r.release(have.device.KubeProxy)
	r.adopt(nil)
	r.steer(have, r.owners(nil))
	r.noteDraining(nil)
	p := r.plan(have, nil)
	for _, c := range p.conflicts {
		warnings = append(warnings, c.Error())
	}
	for _, owner := range slices.SortedFunc(maps.Keys(r.steering.onTheWay), compareNames) {
		warnings = append(warnings, fmt.Sprintf("VirtualServer %s: a cut-over is under way; what follows is planned when this was read back", owner))
	}
	for _, s := range r.snapshot.Servers {
		if s.Refused != nil {
			warnings = append(warnings, fmt.Sprintf("VirtualServer %s: %s: %s", s.Key, s.Refused.Reason, s.Refused.Message))
		}
		if state := r.ledger.Rollouts[s.Key]; state.Message != "" {
			warnings = append(warnings, fmt.Sprintf("VirtualServer %s: %s", s.Key, state.Message))
		}
		warnings = append(warnings, r.target.Problems[s.Key]...)
	}
	return p.Ops(), warnings, nil
}

// Cleanup removes all that is ours from the kernel, or with dryRun only says how. Unlike a pass it
// waits for no connection. What fails is joined; the ledger keeps what could not be removed.
func (r *Reconciler) Cleanup(ctx context.Context, dryRun bool) (ops []fmt.Stringer, err error) {
	if r.ledger, err = LoadLedger(r.StateDir); err != nil {
		return nil, err
	}
	r.store.dir = r.StateDir
	services, err := r.IPVS.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the IPVS table: %w", err)
	}
	var table []ipvs.Op
	for i := range services {
		if r.ledger.Owns(services[i].Key) {
			table = append(table, ipvs.Op{Verb: ipvs.DelService, Service: services[i].Service})
			ops = append(ops, table[len(table)-1])
		}
	}
	_, rules, err := r.NFT.Read()
	if err != nil && !errors.Is(err, nft.ErrUnsupported) {
		return nil, fmt.Errorf("reading the nftables table: %w", err)
	}
	if rules.Present {
		ops = append(ops, nft.Op{Verb: nft.DelTable})
	}
	device, err := r.Node.ReadDevice()
	if err != nil {
		return nil, err
	}
	remove := node.DiffDevice(nil, device)
	ops = appendOps(ops, remove)
	var back []node.SysctlDiff
	for _, s := range node.Sysctls(true) {
		if before, changed := r.ledger.Sysctls[s.Key]; changed {
			s.Want = before
			back = append(back, node.SysctlDiff{Sysctl: s})
		}
	}
	ops = appendOps(ops, back)
	if dryRun {
		return ops, nil
	}
	var failed []error
	if err := r.IPVS.Apply(ctx, table); err != nil {
		failed = append(failed, fmt.Errorf("removing virtual servers: %w", err))
	} else {
		r.ledger.Owned, r.ledger.dirty = map[ipvs.Key]*Owned{}, true
	}
	if rules.Present {
		if err := r.NFT.Delete(); err != nil {
			failed = append(failed, fmt.Errorf("removing the nftables table: %w", err))
		}
	}
	if err := r.Node.ApplyDevice(remove); err != nil {
		failed = append(failed, err)
	}
	if err := r.Node.SetSysctls(back); err != nil {
		failed = append(failed, err)
	} else {
		r.ledger.Sysctls, r.ledger.dirty = map[string]string{}, true
	}
	return ops, errors.Join(append(failed, r.store.save(r.ledger))...)
}

// Describe gives what the numbers of a table do not tell. colour is that of a real server, "" for one that is none of
// ours: as it is declared and, of those that drain and are not declared any more, as the ledger remembers it.
// steered is, for a mark of ours, its VirtualServer and the addresses whose packets the rules put on it; "" for any
// other virtual server.
func (r *Reconciler) Describe() (colour func(ipvs.Key, ipvs.RealKey) string, steered func(ipvs.Key) string, err error) {
	if r.ledger, err = LoadLedger(r.StateDir); err != nil {
		return nil, nil, err
	}
	if err := r.derive(true); err != nil {
		return nil, nil, err
	}
	rules, _, err := r.NFT.Read()
	if err != nil && !errors.Is(err, nft.ErrUnsupported) {
		return nil, nil, fmt.Errorf("reading the nftables table: %w", err)
	}
	c := crossing{rules: rules.Steering}
	return r.colour, func(key ipvs.Key) string {
		o := r.ledger.Owned[key]
		if key.Mark == 0 || o == nil {
			return ""
		}
		return strings.Join(append([]string{o.Owner.String()}, c.steered(key)...), ", ")
	}, nil
}
