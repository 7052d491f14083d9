package sync

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pointsman/pointsman/ipvs"
)

// planIPVS gives the ops that lead from the kernel's table to the target, of the virtual servers that
// what looks at, in an order that is safe after each op, and the conflicts that no op of ours may
// resolve. Those of hold stay as they are. It is pure: now is only compared with the drain deadlines. Its cost is linear in the real
// servers of what, plus sorting.
//
// For one virtual server the order is: make it or set its options, add and raise real servers, then
// lower those that must get no new connections, then delete those that have drained. So a prefix
// has at worst both colours up, never none. Virtual servers follow one another rather than each
// step over all of them, to keep each one's time of both short.
func planIPVS(t Target, have *table, what *touched, l *Ledger, hold map[ipvs.Key]bool, now time.Time) (ops []ipvs.Op, conflicts []Conflict) {
	var wanted, retired []ipvs.Key
	have.each(what, func(s *ipvs.ServiceInfo) {
		if o := l.Owned[s.Key]; o != nil && t.Servers[s.Key] == nil && !t.Held[o.Owner] && !hold[s.Key] {
			retired = append(retired, s.Key)
		}
	})
	if what == nil {
		wanted = slices.Collect(maps.Keys(t.Servers))
	} else {
		for key := range what.keys {
			if t.Servers[key] != nil {
				wanted = append(wanted, key)
			}
		}
	}
	slices.SortFunc(wanted, compareKeys)
	slices.SortFunc(retired, compareKeys)

	missing := 0 // ops, which are large
	for _, key := range wanted {
		if have.find(key) == nil {
			missing += 1 + len(t.Servers[key].Reals)
		}
	}
	ops = slices.Grow(ops, missing)
	for _, key := range wanted {
		if hold[key] {
			continue
		}
		h := have.find(key)
		if h != nil && !l.Owns(key) {
			conflicts = append(conflicts, Conflict{Key: key, Server: t.Servers[key]})
			continue
		}
		ops = planServer(ops, t.Servers[key], h, l.Owned[key], now)
	}
	for _, key := range retired {
		ops = planRetire(ops, have.find(key), l.Owned[key], now)
	}
	return ops, conflicts
}

// Conflict is a virtual server that we are to make and that somebody else made already.
type Conflict struct {
	Key    ipvs.Key
	Server *VirtualServer
}

func (c Conflict) Error() string {
	return fmt.Sprintf("%s is in the kernel already and not by pointsman's hand, so it stays as it is; stop the program that made it (kube-proxy? keepalived?) and remove it with `%s`",
		c.Key, ipvs.Op{Verb: ipvs.DelService, Service: ipvs.Service{Key: c.Key}})
}

// planServer appends the ops for a virtual server that is to be; h is nil where it is not there yet.
func planServer(ops []ipvs.Op, want *VirtualServer, h *ipvs.ServiceInfo, owned *Owned, now time.Time) []ipvs.Op {
	if h == nil {
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: want.Service})
		for _, r := range want.Reals {
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: want.Service, Real: r})
		}
		return ops
	}
	if h.Service != want.Service {
		ops = append(ops, ipvs.Op{Verb: ipvs.EditService, Service: want.Service})
	}
	have := make(map[ipvs.RealKey]*ipvs.RealInfo, len(h.Reals))
	for i := range h.Reals {
		have[h.Reals[i].RealKey] = &h.Reals[i]
	}
	for _, r := range want.Reals {
		switch there := have[r.RealKey]; {
		case there == nil:
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: want.Service, Real: r})
		case there.RealServer != r:
			ops = append(ops, ipvs.Op{Verb: ipvs.EditReal, Service: want.Service, Real: r})
		}
		delete(have, r.RealKey)
	}
	return planDrain(ops, want.Service, h.Reals, have, owned, now)
}

// planRetire appends the ops for a virtual server of ours that nobody declares any more: no new
// connections, and when the last one has ended, away with it. Deleting it is deleting its real
// servers, which cuts.
func planRetire(ops []ipvs.Op, h *ipvs.ServiceInfo, owned *Owned, now time.Time) []ipvs.Op {
	for i := range h.Reals {
		if !deletable(h.Key, &h.Reals[i], owned, now) {
			extra := map[ipvs.RealKey]*ipvs.RealInfo{}
			for j := range h.Reals {
				extra[h.Reals[j].RealKey] = &h.Reals[j]
			}
			return planDrain(ops, h.Service, h.Reals, extra, owned, now)
		}
	}
	return append(ops, ipvs.Op{Verb: ipvs.DelService, Service: h.Service})
}

// planDrain appends the ops for the real servers in extra, which are to get no new connections:
// first all that still do are lowered, then what has drained is deleted. The kernel's order in reals
// makes the plan the same each time.
func planDrain(ops []ipvs.Op, service ipvs.Service, reals []ipvs.RealInfo, extra map[ipvs.RealKey]*ipvs.RealInfo, owned *Owned, now time.Time) []ipvs.Op {
	for i := range reals {
		if r := &reals[i]; extra[r.RealKey] != nil && r.Weight > 0 && owned.protocol(service.Key) != ipvs.UDP {
			lowered := r.RealServer
			lowered.Weight = 0
			ops = append(ops, ipvs.Op{Verb: ipvs.EditReal, Service: service, Real: lowered})
		}
	}
	for i := range reals {
		if r := &reals[i]; extra[r.RealKey] != nil && deletable(service.Key, r, owned, now) {
			ops = append(ops, ipvs.Op{Verb: ipvs.DelReal, Service: service, Real: r.RealServer})
		}
	}
	return ops
}

// deletable says whether a real server that is to get no new connections can go now. One that still
// has weight cannot, whatever its counters say: a connection may come while we look. UDP ones go at
// once: every datagram renews an entry, so nothing but deleting the real server moves a flow.
// Inactive connections count: half-open ones are among them.
func deletable(key ipvs.Key, r *ipvs.RealInfo, owned *Owned, now time.Time) bool {
	switch {
	case owned.protocol(key) == ipvs.UDP:
		return true
	case r.Weight > 0:
		return false
	case r.Active == 0 && r.Inactive == 0:
		return true
	}
	d, known := owned.Draining[r.RealKey]
	return known && owned.Drain.Cut && now.Sub(d.Since) >= owned.Drain.Timeout
}

// protocol is whose packets a virtual server of ours takes; a mark by itself does not say.
func (o *Owned) protocol(key ipvs.Key) ipvs.Protocol {
	if key.Mark != 0 && o != nil {
		return o.Protocol
	}
	return key.Protocol
}
