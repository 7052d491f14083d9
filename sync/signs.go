package sync

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	gosync "sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/probe"
	"github.com/pointsman/pointsman/rollout"
)

// Connections is what the kernel counts of connections. It is not the [IPVS] that passes read by: that leaves the counters
// of real servers where they are.
type Connections interface {
	RealServers(context.Context, ipvs.Key) ([]ipvs.RealInfo, error)
	Connections(context.Context) (map[ipvs.ConnKey]*ipvs.ConnCount, error)
}

// How often the counters and the table of connections are read while a colour is observed: each second, and less often
// when that costs more than one part in signsShare of a processor, as it does with some ten thousands of
// connections before Linux 6.8. A table that takes longer than signsLimit is done without: then what needs it is not
// told (resets after accepting, what stays half open), and what was told of it stays for signsKept. With nothing observed
// nothing is read.
const (
	signsInterval = time.Second
	signsShare    = 20
	signsLimit    = 2 * time.Second
	signsKept     = 10 * time.Second
)

// watched is one colour of a VirtualServer whose connections are watched, and how to find them in the kernel.
type watched struct {
	colour string
	spare  int // endpoints that may be broken
	keys   []ipvs.Key
	reals  map[realOf]netip.AddrPort       // to the endpoint
	conns  map[ipvs.ConnKey]netip.AddrPort // to the endpoint
}

// realOf is a real server in its virtual server.
type realOf struct {
	of   ipvs.Key
	real ipvs.RealKey
}

// watch has the connections watched that rollouts observe.
func (r *Reconciler) watch() {
	if r.watcher == nil {
		return
	}
	var want map[types.NamespacedName]*watched
	for key, s := range r.inForce {
		colour := r.ledger.Rollouts[key].Observed(s.Spec)
		if colour == "" || s.Spec.Switch.Observe.Connections != nil && !*s.Spec.Switch.Observe.Connections {
			continue
		}
		if want == nil {
			want = map[types.NamespacedName]*watched{}
		}
		want[key] = r.watched(s, colour)
	}
	r.watcher.set(want)
}

func (r *Reconciler) watched(s *endpoints.Server, colour string) *watched {
	n := Counts(s)[colour]
	w := &watched{
		colour: colour, spare: n.Ready - rollout.Needed(s.Spec.Switch.Observe.MinReady, n.All),
		reals: map[realOf]netip.AddrPort{}, conns: map[ipvs.ConnKey]netip.AddrPort{},
	}
	var lanes []ipvs.Key // those that drain too, which had connections just now
	for key, o := range r.ledger.Owned {
		if key.Mark != 0 && o.Owner == s.Key && o.Protocol == ipvs.TCP {
			lanes = append(lanes, key)
		}
	}
	for _, key := range r.target.ByOwner[s.Key] {
		if key.Protocol != ipvs.TCP {
			continue
		}
		v := r.target.Servers[key]
		w.keys = append(w.keys, key)
		for i := range v.from {
			e := &v.from[i]
			if e.Colour != colour {
				continue
			}
			endpoint, real := netip.AddrPortFrom(e.Addr, e.Port), v.realKey(e)
			w.reals[realOf{key, real}] = endpoint
			w.conns[ipvs.ConnKey{
				Protocol: ipvs.TCP, Virtual: netip.AddrPortFrom(key.Addr, key.Port), Real: netip.AddrPortFrom(real.Addr, real.Port),
			}] = endpoint
			if v.forwarding != v1alpha1.Masquerade {
				real.Port = 0 // see laneReals
			}
			for _, lane := range lanes {
				if lane.Addr == unspecified(key.Addr) {
					w.reals[realOf{lane, real}] = endpoint
				}
			}
		}
	}
	w.keys = append(w.keys, lanes...)
	slices.SortFunc(w.keys, compareKeys)
	return w
}

// signs are those of what a rollout observes.
func (r *Reconciler) signs(key types.NamespacedName, state rollout.State, spec *v1alpha1.VirtualServerSpec) []v1alpha1.Sign {
	if r.watcher == nil {
		return nil
	}
	colour := state.Observed(spec)
	if colour == "" {
		return nil
	}
	return r.watcher.signsOf(key, colour)
}

// watcher reads the kernel's counters for as long as something is watched, in a goroutine of its own.
type watcher struct {
	ctx         context.Context
	connections Connections
	changed     chan struct{} // of size one: the signs did
	log         logrus.FieldLogger
	running     gosync.WaitGroup

	mu     gosync.Mutex
	awake  bool // the goroutine runs
	wanted map[types.NamespacedName]*watched
	signs  map[types.NamespacedName][]v1alpha1.Sign

	// The goroutine's own: readings, from the oldest, and when the last was that had the table of connections.
	past     map[types.NamespacedName][]reading
	full     map[types.NamespacedName]time.Time
	troubled string // the last error, which is said once
}

// reading is what the kernel had counted at one moment for what is watched.
type reading struct {
	at     time.Time
	colour string
	reals  map[realOf]ipvs.RealInfo
	conns  map[netip.AddrPort]ipvs.ConnCount // nil: the table was not read
}

func newWatcher(ctx context.Context, connections Connections, log logrus.FieldLogger) *watcher {
	return &watcher{ctx: ctx, connections: connections, log: log, changed: make(chan struct{}, 1)}
}

// set says what is watched from now on.
func (w *watcher) set(want map[types.NamespacedName]*watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted = want
	for key, signs := range w.signs {
		if to := want[key]; to == nil || to.colour != signs[0].Colour {
			delete(w.signs, key)
		}
	}
	if len(want) > 0 && !w.awake && w.ctx.Err() == nil {
		w.awake = true
		w.running.Go(w.run)
	}
}

// signsOf are the signs of a colour that is watched.
func (w *watcher) signsOf(key types.NamespacedName, colour string) []v1alpha1.Sign {
	w.mu.Lock()
	defer w.mu.Unlock()
	if signs := w.signs[key]; len(signs) > 0 && signs[0].Colour == colour {
		return signs // never changed
	}
	return nil
}

// run reads until nothing is watched.
func (w *watcher) run() {
	runtime.LockOSThread() // whose time is measured: on a busy machine waiting is no cost
	defer runtime.UnlockOSThread()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-timer.C:
		}
		w.mu.Lock()
		wanted := w.wanted
		if len(wanted) == 0 {
			w.awake, w.past, w.full = false, nil, nil
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		before := spent()
		w.look(wanted, time.Now())
		timer.Reset(max(signsInterval, signsShare*(spent()-before)))
	}
}

// spent is how long the thread has run on a processor.
func spent() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// look reads the kernel once and says what signs there are.
func (w *watcher) look(wanted map[types.NamespacedName]*watched, now time.Time) {
	readings, err := w.read(wanted, now)
	if w.ctx.Err() != nil {
		return
	}
	w.trouble(err)
	past := make(map[types.NamespacedName][]reading, len(wanted))
	found := make(map[types.NamespacedName][]probe.Sign, len(wanted))
	full, keep := map[types.NamespacedName]time.Time{}, map[types.NamespacedName]bool{}
	for key, of := range wanted {
		before := since(w.past[key], of.colour, now)
		reading, ok := readings[key]
		if ok {
			found[key] = of.find(before, reading)
			before = append(before, reading)
		}
		if ok && reading.conns != nil {
			full[key] = now
		} else if last := w.full[key]; now.Sub(last) < signsKept {
			full[key] = last
			keep[key] = len(found[key]) == 0
		}
		past[key] = before
	}
	w.past, w.full = past, full
	w.publish(wanted, found, keep)
}

// trouble logs what could not be read, once.
func (w *watcher) trouble(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != w.troubled && err != nil {
		w.log.WithError(err).Warn("the connections of an observed colour cannot be watched in full; the rest of the observation goes on")
	}
	w.troubled = text
}

func (w *watcher) read(wanted map[types.NamespacedName]*watched, now time.Time) (map[types.NamespacedName]reading, error) {
	out := make(map[types.NamespacedName]reading, len(wanted))
	for key, of := range wanted {
		n := reading{at: now, colour: of.colour, reals: map[realOf]ipvs.RealInfo{}}
		for _, k := range of.keys {
			reals, err := w.connections.RealServers(w.ctx, k)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // else it is yet to come, or gone
				return nil, err // what is missing would look as if made anew the next time
			}
			for _, real := range reals {
				if at := (realOf{k, real.RealKey}); of.reals[at].IsValid() {
					n.reals[at] = real
				}
			}
		}
		out[key] = n
	}
	ctx, cancel := context.WithTimeout(w.ctx, signsLimit)
	defer cancel()
	// After the counters: a connection that is counted is in the table.
	conns, err := w.connections.Connections(ctx)
	if err != nil {
		return out, err
	}
	for key, of := range wanted {
		n := out[key]
		n.conns = map[netip.AddrPort]ipvs.ConnCount{}
		for at, c := range conns {
			if to, ok := of.conns[at]; ok {
				n.conns[to] = plus(n.conns[to], c)
			}
		}
		out[key] = n
	}
	return out, nil
}

func plus(a ipvs.ConnCount, b *ipvs.ConnCount) ipvs.ConnCount {
	a.Total, a.Waiting = a.Total+b.Total, a.Waiting+b.Waiting
	for i := range a.TCP {
		a.TCP[i] += b.TCP[i]
	}
	return a
}

// since are the readings of a colour that a window may begin with: those that are not too old, and the last in any case.
func since(past []reading, colour string, now time.Time) []reading {
	for len(past) > 0 && (past[0].colour != colour || len(past) > 1 && now.Sub(past[0].at) > probe.WindowMost*time.Second) {
		past = past[1:]
	}
	return slices.Clone(past)
}

// find compares a reading with the newest that is old enough, and, when that tells nothing, with the oldest: with few
// connections it takes longer to see.
func (of *watched) find(past []reading, now reading) []probe.Sign {
	newest := -1
	for i := range past {
		if now.at.Sub(past[i].at) >= probe.WindowLeast*time.Second {
			newest = i
		}
	}
	if newest < 0 {
		return nil
	}
	if signs := probe.Signs(of.windows(past[newest], now), of.spare); len(signs) > 0 || newest == 0 {
		return signs
	}
	return probe.Signs(of.windows(past[0], now), of.spare)
}

// windows are what was counted between two readings, by endpoint; of those that get connections, only.
func (of *watched) windows(before, now reading) map[netip.AddrPort]probe.Window {
	out, serving := map[netip.AddrPort]probe.Window{}, map[netip.AddrPort]bool{}
	for at, real := range now.reals {
		endpoint := of.reals[at]
		b, n := ptr.Deref(before.reals[at].Counters, ipvs.Counters{}), ptr.Deref(real.Counters, ipvs.Counters{})
		if n.Conns < b.Conns || n.InPackets < b.InPackets || n.OutPackets < b.OutPackets || n.OutBytes < b.OutBytes {
			b = ipvs.Counters{} // made anew since
		}
		w, known := out[endpoint]
		w.Masquerade = real.Forwarding == ipvs.Masquerade && (w.Masquerade || !known)
		w.Conns += n.Conns - b.Conns
		w.InPackets += n.InPackets - b.InPackets
		packets := n.OutPackets - b.OutPackets
		w.OutPackets += packets
		header := uint64(20)
		if real.Addr.Is6() {
			header = 40
		}
		if bytes := n.OutBytes - b.OutBytes; bytes > packets*header {
			w.OutBytes += bytes - packets*header
		}
		out[endpoint] = w
		serving[endpoint] = serving[endpoint] || real.Weight > 0
	}
	for endpoint, w := range out {
		if !serving[endpoint] {
			delete(out, endpoint)
			continue
		}
		if now.conns == nil || before.conns == nil {
			continue
		}
		n, b := now.conns[endpoint], before.conns[endpoint]
		w.Established, w.Ended = int(n.TCP[ipvs.TCPEstablished]), ended(n)
		w.Closed, w.HalfOpen, w.Waiting = int(n.TCP[ipvs.TCPClose]), int(n.TCP[ipvs.TCPSynRecv]), int(n.Waiting)
		w.MoreEstablished, w.MoreEnded = w.Established-int(b.TCP[ipvs.TCPEstablished]), w.Ended-ended(b)
		out[endpoint] = w
	}
	return out
}

func ended(c ipvs.ConnCount) int {
	return int(c.TCP[ipvs.TCPFinWait] + c.TCP[ipvs.TCPTimeWait] + c.TCP[ipvs.TCPCloseWait] + c.TCP[ipvs.TCPLastAck])
}

// publish makes signs known, and tells when they are others than before. A sign keeps its words for as long as it is there,
// so that a status does not change each second with the real servers that happen to show it.
func (w *watcher) publish(of map[types.NamespacedName]*watched, found map[types.NamespacedName][]probe.Sign, keep map[types.NamespacedName]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[types.NamespacedName][]v1alpha1.Sign{}
	for key := range of {
		to := w.wanted[key]
		if to == nil || to.colour != of[key].colour {
			continue // no longer wanted
		}
		if signs := w.signs[key]; keep[key] && len(signs) > 0 {
			next[key] = signs
		}
		for _, sign := range found[key] {
			next[key] = append(next[key], w.sign(key, to.colour, sign))
		}
	}
	if len(next)+len(w.signs) > 0 && !reflect.DeepEqual(next, w.signs) {
		w.signs = next
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) sign(key types.NamespacedName, colour string, sign probe.Sign) v1alpha1.Sign {
	for _, last := range w.signs[key] {
		if last.Colour == colour && last.Reason == string(sign.Kind) {
			return last
		}
	}
	return v1alpha1.Sign{Colour: colour, Reason: string(sign.Kind), Message: sign.String()}
}
