package sync

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
)

// derive brings the target up to date with what is declared, when that may have changed.
func (r *Reconciler) derive(stale bool) error {
	if !stale && r.addresses != nil {
		return nil
	}
	addresses, err := r.Node.Addresses()
	if err != nil {
		return fmt.Errorf("listing the node's addresses: %w", err)
	}
	r.addresses = onNets(addresses, r.NodePortsOn)
	if r.addresses == nil {
		r.addresses = []netip.Addr{}
	}
	r.snapshot = r.Source.Snapshot()
	effective := r.keepInForce(r.snapshot)
	now := time.Now()
	r.rollouts.dueAt = time.Time{}
	first, refused := 0, 0 // first: served for the first time
	for i := range effective.Servers {
		s := &effective.Servers[i]
		if s.Refused != nil {
			refused++
			continue
		}
		before := r.ledger.Rollouts[s.Key]
		if before.Active == "" {
			first++
		}
		after := r.decide(s, before, now)
		if !before.Equal(after) {
			r.logRollout(s.Key, before, after)
			r.ledger.Rollouts[s.Key], r.ledger.dirty = after, true
		}
	}
	if len(r.ledger.Rollouts) > len(effective.Servers)-refused {
		r.forgetRollouts(effective)
	}
	if first > 0 {
		r.Log.WithField("virtualservers", first).Info("serving")
	}
	r.probe()
	r.target = r.deriving.next(Input{
		Snapshot: effective, Rollouts: r.ledger.Rollouts, NodeName: r.NodeName,
		NodeAddresses: r.addresses, ClusterCIDRs: r.ClusterCIDRs, Steering: r.Config.Steering,
	})
	return nil
}

// keepInForce puts in place of each refused server what was last accepted of it: a bad declaration
// changes nothing. A Service that is gone is no bad declaration.
func (r *Reconciler) keepInForce(snap *endpoints.Snapshot) *endpoints.Snapshot {
	effective := snap
	accepted := make(map[types.NamespacedName]*endpoints.Server, len(snap.Servers))
	for i := range snap.Servers {
		s := &snap.Servers[i]
		if s.Refused == nil {
			accepted[s.Key] = s
			continue
		}
		last, ok := r.inForce[s.Key]
		if !ok || s.Refused.Gone {
			continue
		}
		if effective == snap {
			effective = &endpoints.Snapshot{Servers: slices.Clone(snap.Servers), Errors: snap.Errors}
		}
		decision := s.Decision
		effective.Servers[i] = *last
		effective.Servers[i].Decision = decision // which is no part of the declaration
		accepted[s.Key] = &effective.Servers[i]  // not last, which would keep all of its Snapshot
	}
	r.inForce = accepted
	return effective
}

// forgetRollouts drops those of VirtualServers that nobody declares any more.
func (r *Reconciler) forgetRollouts(snap *endpoints.Snapshot) {
	declared := make(map[types.NamespacedName]bool, len(snap.Servers))
	for i := range snap.Servers {
		declared[snap.Servers[i].Key] = true
	}
	for key := range r.ledger.Rollouts {
		if !declared[key] {
			delete(r.ledger.Rollouts, key)
			r.ledger.dirty = true
		}
	}
}

func (r *Reconciler) logRollout(key types.NamespacedName, before, after rollout.State) {
	log := r.Log.WithField("virtualserver", key.String())
	switch {
	case before.Active == "":
		log.WithField("colour", after.Active).Debug("serving")
	case before.Phase != after.Phase && after.Phase == v1alpha1.PhaseRolledBack:
		log.WithFields(logrus.Fields{"to": after.Active, "reason": after.Reason}).Warn("rolled back: " + after.Message)
	case before.Active != after.Active:
		log.WithFields(logrus.Fields{"from": before.Active, "to": after.Active}).Info("switching")
	case before.Phase != after.Phase && after.Reason != "" && (after.Phase == v1alpha1.PhaseBlocked || after.Phase == v1alpha1.PhaseSteady):
		log.WithFields(logrus.Fields{"reason": after.Reason, "phase": after.Phase}).Warn(after.Message)
	case before.Phase != after.Phase || before.Weight != after.Weight:
		if after.Candidate != "" {
			log = log.WithFields(logrus.Fields{"candidate": after.Candidate, "weight": after.Weight})
		}
		log.WithField("phase", after.Phase).Info("the switch goes on")
	}
}

func onNets(addrs []netip.Addr, nets []netip.Prefix) []netip.Addr {
	if len(nets) == 0 {
		return addrs
	}
	var out []netip.Addr
	for _, a := range addrs {
		for _, n := range nets {
			if n.Contains(a) {
				out = append(out, a)
				break
			}
		}
	}
	return out
}
