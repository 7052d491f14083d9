package nft

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake is a namespace's nftables that has just our table, or not even that. It behaves as [Conn] does:
// the same tests run against both. Its zero value is a namespace where nobody has made anything.
type Fake struct {
	mu         sync.Mutex
	generation uint32
	table      *fakeTable

	// Err, when it is not nil, is what every call but Close returns.
	Err error
}

type fakeTable struct {
	sets   map[string]map[Endpoint]bool
	chains map[string][]Rule
}

func newFakeTable() *fakeTable {
	return &fakeTable{sets: make(map[string]map[Endpoint]bool), chains: make(map[string][]Rule)}
}

func (t *fakeTable) clone() *fakeTable {
	if t == nil {
		return nil
	}
	c := newFakeTable()
	for name, elements := range t.sets {
		c.sets[name] = maps.Clone(elements)
	}
	for name, rules := range t.chains {
		c.chains[name] = slices.Clone(rules)
	}
	return c
}

// Generation is [Conn.Generation].
func (f *Fake) Generation() (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.generation, f.Err
}

// Read is [Conn.Read].
func (f *Fake) Read() (Ruleset, State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return Ruleset{}, State{}, f.Err
	}
	var rules Ruleset
	state := State{Generation: f.generation, Present: f.table != nil}
	if f.table == nil {
		state.Why = "there is no table inet " + Table
		return rules, state, nil
	}
	for _, name := range setOrder {
		if f.table.sets[name] == nil {
			state.Why = fmt.Sprintf("set %s is missing", name)
		}
		for e := range f.table.sets[name] {
			rules.insert(name, e)
		}
	}
	for _, r := range f.table.chains[postrouting] {
		rules.ClusterCIDRs = append(rules.ClusterCIDRs, r.cidrs...)
	}
	rules.ClusterCIDRs = canonicalCIDRs(rules.ClusterCIDRs)
	for _, r := range f.table.chains[steerIn] {
		rules.Steering = append(rules.Steering, r.steer)
	}
	for _, name := range chainOrder {
		have, there := f.table.chains[name]
		want := rules.chain(name)
		if there != (want != nil) || !reflect.DeepEqual(have, want) {
			state.Why = fmt.Sprintf("the rules of chain %s are not ours", name)
		}
	}
	state.Intact = state.Why == ""
	return rules, state, nil
}

// Apply is [Conn.Apply].
func (f *Fake) Apply(want Ruleset) ([]Op, error) { return apply(f, want) }

// Commit is [Conn.Commit].
func (f *Fake) Commit(ops []Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil || len(ops) == 0 {
		return f.Err
	}
	next := f.table.clone()
	for _, o := range ops {
		if err := next.do(&next, o); err != nil {
			return fmt.Errorf("changing table inet %s (%d changes): %w", Table, len(ops), err)
		}
	}
	f.table = next
	f.generation++
	return nil
}

func (t *fakeTable) do(table **fakeTable, o Op) error {
	switch {
	case o.Verb == AddTable:
		if t == nil {
			*table = newFakeTable()
		}
		return nil
	case t == nil:
		return unix.ENOENT
	case o.Verb == DelTable:
		*table = nil
	case o.Verb == AddSet:
		if t.sets[o.Set] == nil {
			t.sets[o.Set] = make(map[Endpoint]bool)
		}
	case o.Verb == AddChain:
		if _, there := t.chains[o.Chain]; !there {
			t.chains[o.Chain] = nil
		}
	case o.Chain != "":
		rules, there := t.chains[o.Chain]
		switch {
		case !there:
			return unix.ENOENT
		case o.Verb == FlushChain:
			t.chains[o.Chain] = nil
		case o.Verb == DelChain:
			delete(t.chains, o.Chain)
		case o.Rule.kind != steered && t.sets[o.Rule.set().name] == nil:
			return unix.ENOENT
		default:
			t.chains[o.Chain] = append(rules, o.Rule)
		}
	case t.sets[o.Set] == nil:
		return unix.ENOENT
	case o.Verb == AddElement:
		t.sets[o.Set][o.Element] = true
	case o.Verb == DelElement:
		if !t.sets[o.Set][o.Element] {
			return unix.ENOENT
		}
		delete(t.sets[o.Set], o.Element)
	default:
		return errors.New("no such verb")
	}
	return nil
}

// Delete is [Conn.Delete].
func (f *Fake) Delete() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err == nil && f.table != nil {
		f.table = nil
		f.generation++
	}
	return f.Err
}

// Close is [Conn.Close].
func (f *Fake) Close() error { return nil }

// Flush is what `nft flush ruleset` by another program does.
func (f *Fake) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table = nil
	f.generation++
}

// FlushRules is what `nft flush table inet pointsman` by another program does: sets and chains stay, rules go.
func (f *Fake) FlushRules() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.table != nil {
		for name := range f.table.chains {
			f.table.chains[name] = nil
		}
	}
	f.generation++
}

// Foreign is another program's transaction on a table of its own.
func (f *Fake) Foreign() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
}
