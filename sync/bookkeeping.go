package sync

import (
	"errors"
	"io/fs"
	"maps"
	"time"

	"github.com/pointsman/pointsman/ipvs"
)

// claim writes into the ledger what a plan is about to make or change, before it does.
func (r *Reconciler) claim(p plan, what *touched) {
	for _, op := range p.ipvs {
		if op.Verb == ipvs.AddService && !r.ledger.Owns(op.Service.Key) {
			r.ledger.Owned[op.Service.Key], r.ledger.dirty = &Owned{Draining: map[ipvs.RealKey]Draining{}}, true
		}
	}
	r.eachOwned(what, func(key ipvs.Key, o *Owned) {
		if v := r.want(key); v != nil && (o.Owner != v.Owner || o.Drain != v.Drain) {
			o.Owner, o.Drain, r.ledger.dirty = v.Owner, v.Drain, true
		}
	})
	for _, s := range p.sysctls {
		if _, known := r.ledger.Sysctls[s.Key]; !known && !s.Missing {
			r.ledger.Sysctls[s.Key], r.ledger.dirty = s.Have, true
		}
	}
}

// eachOwned calls f for the virtual servers that are ours, those of what. f may forget them.
func (r *Reconciler) eachOwned(what *touched, f func(ipvs.Key, *Owned)) {
	if what == nil {
		for key, o := range r.ledger.Owned {
			f(key, o)
		}
		return
	}
	for key := range what.keys {
		if o := r.ledger.Owned[key]; o != nil {
			f(key, o)
		}
	}
}

// noteDraining keeps the record of since when real servers of ours are to get no new connections.
func (r *Reconciler) noteDraining(what *touched) {
	if what == nil || r.draining == nil {
		r.draining = map[ipvs.Key]bool{}
	}
	r.eachOwned(what, func(key ipvs.Key, o *Owned) {
		delete(r.draining, key)
		if r.table.find(key) == nil && len(o.Draining) > 0 {
			o.Draining, r.ledger.dirty = nil, true // it went, and its real servers with it
		}
	})
	r.table.each(what, func(s *ipvs.ServiceInfo) {
		o := r.ledger.Owned[s.Key]
		if o == nil {
			return
		}
		want := r.want(s.Key)
		wanted := map[ipvs.RealKey]bool{}
		if want != nil {
			for _, real := range want.Reals {
				wanted[real.RealKey] = true
			}
		}
		draining := make(map[ipvs.RealKey]Draining, len(o.Draining))
		for _, real := range s.Reals {
			if wanted[real.RealKey] || want == nil && r.target.Held[o.Owner] {
				continue
			}
			d, known := o.Draining[real.RealKey]
			if !known {
				d = Draining{Colour: r.colour(s.Key, real.RealKey), Since: time.Now().UTC().Truncate(time.Millisecond)}
			}
			draining[real.RealKey] = d
		}
		if !maps.Equal(draining, o.Draining) {
			o.Draining, r.ledger.dirty = draining, true
		}
		if len(draining) > 0 {
			r.draining[s.Key] = true
		}
	})
}

// forgetGone drops from the ledger what is neither wanted nor in the kernel any more.
func (r *Reconciler) forgetGone(what *touched) {
	r.eachOwned(what, func(key ipvs.Key, _ *Owned) {
		if r.table.find(key) == nil && r.want(key) == nil {
			delete(r.ledger.Owned, key)
			r.ledger.dirty = true
		}
	})
}

// disown takes back the claim on virtual servers that somebody else made first.
func (r *Reconciler) disown(err error) {
	var batch *ipvs.BatchError
	if !errors.As(err, &batch) {
		return
	}
	for _, e := range batch.Ops {
		if e.Op.Verb == ipvs.AddService && errors.Is(e, fs.ErrExist) {
			delete(r.ledger.Owned, e.Op.Service.Key)
			r.ledger.dirty = true
		}
	}
}

// colour is the colour of a real server of ours, "" when it is not known: a lane's owner knows its own.
func (r *Reconciler) colour(key ipvs.Key, real ipvs.RealKey) string {
	if colour := r.want(key).Colour(real); colour != "" {
		return colour
	}
	if colour := r.target.Servers[key].Colour(real); colour != "" {
		return colour
	}
	o := r.ledger.Owned[key]
	if o == nil {
		return ""
	}
	if key.Mark != 0 {
		for _, k := range r.target.ByOwner[o.Owner] {
			v := r.target.Servers[k]
			for i := range v.from {
				e := &v.from[i]
				if rk := v.realKey(e); rk == real || real.Port == 0 && rk.Addr == real.Addr {
					return e.Colour
				}
			}
		}
	}
	return o.Draining[real].Colour
}
