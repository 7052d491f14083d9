package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

// table is the kernel's IPVS table as last read: whole when somebody else may have changed it, and else only
// the virtual servers that are touched, so that a change costs what it changes.
type table struct {
	services []ipvs.ServiceInfo
	at       map[ipvs.Key]int // index in services; nil: never read, or not to be believed
	whole    time.Time        // when it was last read whole
	again    time.Time        // when it may be, for somebody else's change
	// asOf is the count of the kernel's changes that services are right for: nobody but us has changed the
	// table as long as the count says so.
	asOf uint64
}

// wholeEvery is how often the table is read whole though nobody is known to have changed it.
const wholeEvery = 5 * time.Minute

// touched are the virtual servers that a pass looks at; options: their own options may differ too,
// not only their real servers. nil is the whole table.
type touched struct {
	keys    map[ipvs.Key]bool
	options bool
}

// and is what either of two looks at.
func (t *touched) and(o *touched) *touched {
	if t == nil || o == nil {
		return nil
	}
	both := touched{keys: maps.Clone(t.keys), options: t.options || o.options}
	maps.Copy(both.keys, o.keys)
	return &both
}

// find is a virtual server as last read, nil when it was not there.
func (t *table) find(key ipvs.Key) *ipvs.ServiceInfo {
	if i, ok := t.at[key]; ok {
		return &t.services[i]
	}
	return nil
}

// each calls f for the virtual servers that are there, those of what.
func (t *table) each(what *touched, f func(*ipvs.ServiceInfo)) {
	if what == nil {
		for i := range t.services {
			f(&t.services[i])
		}
		return
	}
	for key := range what.keys {
		if s := t.find(key); s != nil {
			f(s)
		}
	}
}

// read reads the table from the kernel, whole or what was touched.
func (t *table) read(ctx context.Context, from IPVS, what *touched) error {
	switch {
	case what == nil || t.at == nil || len(what.keys) > len(t.services)/2+16:
		return t.readWhole(ctx, from)
	case len(what.keys) == 0:
		return nil
	}
	fresh := map[ipvs.Key]ipvs.ServiceInfo{}
	if what.options {
		services, err := from.Services(ctx)
		if err != nil {
			return t.broken(err)
		}
		for _, s := range services {
			fresh[s.Key] = s
		}
	}
	for key := range what.keys {
		reals, err := from.RealServers(ctx, key)
		i, known := t.at[key]
		s, listed := fresh[key]
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if known {
				t.remove(i)
			}
		case err != nil:
			return t.broken(err)
		case known:
			if listed {
				t.services[i].Service = s.Service
			}
			t.services[i].Reals = reals
		case listed:
			s.Reals = reals
			t.at[key] = len(t.services)
			t.services = append(t.services, s)
		default: // somebody made it, and its options are not known
			return t.readWhole(ctx, from)
		}
	}
	return nil
}

func (t *table) readWhole(ctx context.Context, from IPVS) error {
	began := time.Now()
	services, err := from.Read(ctx)
	if err != nil {
		return t.broken(err)
	}
	t.set(services)
	t.whole = time.Now()
	t.again = t.whole.Add(wholeShare * t.whole.Sub(began))
	return nil
}

func (t *table) set(services []ipvs.ServiceInfo) {
	t.services, t.at = services, make(map[ipvs.Key]int, len(services))
	for i := range services {
		t.at[services[i].Key] = i
	}
}

// broken has the next reading be a whole one.
func (t *table) broken(err error) error {
	t.at = nil
	return fmt.Errorf("reading the IPVS table: %w", err)
}

// remove takes one out; the order of the others stays.
func (t *table) remove(i int) {
	delete(t.at, t.services[i].Key)
	t.services = slices.Delete(t.services, i, i+1)
	for ; i < len(t.services); i++ {
		t.at[t.services[i].Key] = i
	}
}

// touchedBy are the virtual servers that ops change.
func touchedBy(ops []ipvs.Op) *touched {
	t := touched{keys: make(map[ipvs.Key]bool)}
	for _, op := range ops {
		t.keys[op.Service.Key] = true
		t.options = t.options || op.Verb == ipvs.AddService || op.Verb == ipvs.EditService
	}
	return &t
}

// touchedBetween are the virtual servers that differ between two targets.
func touchedBetween(a, b Target) *touched {
	t := touched{keys: make(map[ipvs.Key]bool)}
	for key, v := range b.Servers {
		before := a.Servers[key]
		if before == v {
			continue
		}
		if before == nil || before.Service != v.Service || before.Owner != v.Owner || before.Drain != v.Drain || !slices.Equal(before.Reals, v.Reals) {
			t.keys[key] = true
			t.options = t.options || before == nil || before.Service != v.Service
		}
	}
	for key := range a.Servers {
		if b.Servers[key] == nil {
			t.keys[key] = true
		}
	}
	for owner, now := range b.Rollouts {
		before := a.Rollouts[owner]
		same := before != nil && now.equal(*before)
		for _, key := range b.ByOwner[owner] {
			if !same || now.aside() && a.Servers[key] != nil && !sameEndpoints(a.Servers[key].from, b.Servers[key].from) {
				t.keys[key] = true
			}
		}
	}
	return &t
}

// sameEndpoints compares two lists, which share memory most often when they are equal.
func sameEndpoints(a, b []endpoints.Endpoint) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
