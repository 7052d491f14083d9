package sync

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/atomicfile"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/rollout"
)

// statusStore keeps the status of each server, as text too, and what it was made of. So a pass makes anew what it
// may have changed, and no more; and writes the status when it differs from the last one.
type statusStore struct {
	dir  string
	told func(*Status) // of each that differs; nil: nobody

	all    []*observed // in the order of the status
	byKey  map[types.NamespacedName]*observed
	owners map[ipvs.Key]types.NamespacedName // of our virtual servers, as all was made of them
	whole  time.Time                         // of the reading of the table that all was made of
	freed  map[types.NamespacedName]bool     // r.released, then

	last  []byte // the file's text without the servers; nil: nothing was written, or that failed
	stale bool   // a server's text is not in the file
}

// observed is the status of a server and what it was made of, beside what the kernel holds.
type observed struct {
	key     types.NamespacedName
	server  *endpoints.Server // in force; nil: it is declared no more, and drains
	state   rollout.State
	pending bool   // something is left to do
	failed  bool   // the pass did
	trouble string // what it could not have
	undone  string
	keyed   keyed
	probe   *v1alpha1.ProbeReport
	signs   []v1alpha1.Sign

	status *ServerStatus
	text   []byte // of status; nil: not made yet

	// The status before and its text, until then. If nothing differs they stay: who was told of them has them.
	wasStatus *ServerStatus
	wasText   []byte
}

func (o *observed) remember(before *observed) { o.wasStatus, o.wasText = before.status, before.text }

// sameBut says whether both are made of the same, beside what the kernel holds.
func (o *observed) sameBut(n *observed) bool {
	return o.server != nil && n.server != nil && o.server.Same(n.server) && o.state.Equal(n.state) &&
		o.pending == n.pending && o.failed == n.failed && o.trouble == n.trouble && o.undone == n.undone && o.keyed == n.keyed &&
		reflect.DeepEqual(o.probe, n.probe) && slices.Equal(o.signs, n.signs)
}

func (r *Reconciler) keyedAs(key types.NamespacedName, failed bool) (k keyed) {
	if c := r.steering.of[key]; c != nil {
		k = c.keyed
	}
	if failed {
		k.staged = ""
	}
	return k
}

// observe makes the status of what a pass saw.
func (r *Reconciler) observe(seen observation, passErr error) *Status {
	status := &Status{Node: r.NodeName, Rejected: r.Source.Failures(), Servers: []*ServerStatus{}}
	if passErr != nil {
		status.Error = passErr.Error()
	}
	if r.snapshot == nil {
		return status
	}
	status.Errors = r.snapshot.Errors
	again := r.lookAgain(seen.looked)
	all := r.madeOf(seen, passErr, again)
	services := r.servicesOf(all)
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second)) // as it is written, too
	var last []metav1.Condition
	for _, o := range all {
		if o.text == nil {
			o.status = r.observeServer(o, services[o.key], now)
			of := &o.status.Status
			if !slices.Equal(of.Conditions, last) { // most have the same, and they are kept
				last = slices.Clip(of.Conditions)
			}
			of.Conditions = last
		}
	}
	all = r.observeGone(all, services)
	slices.SortFunc(all, func(a, b *observed) int { return compareNames(a.key, b.key) })
	r.status.keep(all)
	status.Servers = r.status.servers()
	return status
}

// lookAgain are the owners of which the kernel may hold something else than it did for the last status; nil: all.
func (r *Reconciler) lookAgain(looked *touched) map[types.NamespacedName]bool {
	st := &r.status
	if st.byKey == nil || looked == nil || r.table.whole != st.whole || !maps.Equal(r.released, st.freed) {
		st.whole, st.freed, st.owners = r.table.whole, r.released, make(map[ipvs.Key]types.NamespacedName, len(r.ledger.Owned))
		for key, o := range r.ledger.Owned {
			st.owners[key] = o.Owner
		}
		return nil
	}
	again := map[types.NamespacedName]bool{}
	for key := range looked.keys {
		if owner, was := st.owners[key]; was {
			again[owner] = true
			delete(st.owners, key)
		}
		if o := r.ledger.Owned[key]; o != nil {
			again[o.Owner] = true
			st.owners[key] = o.Owner
		}
	}
	return again
}

// madeOf is what the status of each declared server is to be made of, or was made of when that is the same.
func (r *Reconciler) madeOf(seen observation, passErr error, again map[types.NamespacedName]bool) []*observed {
	trouble := map[types.NamespacedName][]string{}
	for _, c := range seen.conflicts {
		trouble[c.Server.Owner] = append(trouble[c.Server.Owner], c.Error())
	}
	for owner, problems := range r.target.Problems {
		trouble[owner] = append(trouble[owner], problems...)
	}
	all := make([]*observed, 0, len(r.snapshot.Servers))
	for i := range r.snapshot.Servers {
		s := &r.snapshot.Servers[i]
		if last, ok := r.inForce[s.Key]; ok && s.Refused == nil {
			s = last
		}
		now := observed{
			key: s.Key, server: s, state: r.ledger.Rollouts[s.Key], pending: seen.pending[s.Key], failed: passErr != nil,
			trouble: strings.Join(trouble[s.Key], "; "), undone: r.undone[s.Key],
			keyed: r.keyedAs(s.Key, passErr != nil), probe: r.probed(s.Key, r.ledger.Rollouts[s.Key], s.Spec), signs: r.signs(s.Key, r.ledger.Rollouts[s.Key], s.Spec),
		}
		before := r.status.byKey[s.Key]
		if before != nil && again != nil && !again[s.Key] && before.sameBut(&now) {
			before.server = s // an older Snapshot is not kept for it
			all = append(all, before)
			continue
		}
		made := new(observed) // not now itself, which nearly always ends here
		if *made = now; before != nil {
			made.remember(before)
		}
		all = append(all, made)
	}
	return all
}

// servicesOf are our virtual servers in the kernel, by owner, but for those of servers whose status stays.
func (r *Reconciler) servicesOf(all []*observed) map[types.NamespacedName][]*ipvs.ServiceInfo {
	stays := make(map[types.NamespacedName]bool, len(all))
	for _, o := range all {
		stays[o.key] = o.text != nil
	}
	byOwner := map[types.NamespacedName][]*ipvs.ServiceInfo{}
	for i := range r.table.services {
		s := &r.table.services[i]
		if o := r.ledger.Owned[s.Key]; o != nil && !stays[o.Owner] {
			byOwner[o.Owner] = append(byOwner[o.Owner], s)
		}
	}
	return byOwner
}

// observeGone adds what is no longer declared and still drains.
func (r *Reconciler) observeGone(all []*observed, services map[types.NamespacedName][]*ipvs.ServiceInfo) []*observed {
	declared := make(map[types.NamespacedName]bool, len(all))
	for _, o := range all {
		declared[o.key] = true
	}
	for owner, of := range services {
		if !declared[owner] {
			gone := &observed{key: owner, status: &ServerStatus{Namespace: owner.Namespace, Name: owner.Name}}
			if before := r.status.byKey[owner]; before != nil {
				gone.remember(before)
			}
			r.observeKernel(gone.status, of)
			all = append(all, gone)
		}
	}
	return all
}

// keep takes what a status is made of in the place of what the last one was made of.
func (s *statusStore) keep(all []*observed) {
	if slices.Equal(all, s.all) && s.byKey != nil {
		return
	}
	if !slices.EqualFunc(all, s.all, func(a, b *observed) bool { return a.key == b.key }) {
		s.stale = true
	}
	s.all, s.byKey = all, make(map[types.NamespacedName]*observed, len(all))
	for _, o := range all {
		s.byKey[o.key] = o
	}
}

func (s *statusStore) servers() []*ServerStatus {
	out := make([]*ServerStatus, len(s.all))
	for i, o := range s.all {
		out[i] = o.status
	}
	return out
}

// save writes the status when its text differs from the last one, and tells of it.
func (s *statusStore) save(status *Status) error {
	for _, o := range s.all {
		if o.text != nil {
			continue
		}
		text, err := json.Marshal(o.status)
		if err != nil {
			return fmt.Errorf("writing the status: %w", err)
		}
		if bytes.Equal(text, o.wasText) {
			o.status, o.text = o.wasStatus, o.wasText
		} else {
			o.text, s.stale = text, true
		}
		o.wasStatus, o.wasText = nil, nil
	}
	head := *status
	head.Servers = nil
	last, err := json.Marshal(&head)
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	if !s.stale && bytes.Equal(last, s.last) {
		return nil
	}
	s.last = nil
	if err := atomicfile.Write(filepath.Join(s.dir, statusFile), s.join(last), 0o644); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	s.last, s.stale = last, false
	if s.told != nil {
		status.Servers = s.servers() // some are those of before
		s.told(status)
	}
	return nil
}

// join is the text of a status, of which the servers are the last field.
func (s *statusStore) join(head []byte) []byte {
	size := len(head)
	for _, o := range s.all {
		size += len(o.text) + 1
	}
	out := append(make([]byte, 0, size), bytes.TrimSuffix(head, []byte("null}"))...)
	out = append(out, '[')
	for i, o := range s.all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, o.text...)
	}
	return append(out, "]}"...)
}

// compareNames compares "namespace/name".
func compareNames(a, b types.NamespacedName) int {
	if a.Namespace == b.Namespace {
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Compare(a.String(), b.String())
}
