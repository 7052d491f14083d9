package sync

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
)

// The cut-over. IPVS cannot swap a set of real servers at once, nftables can swap rules. So what new connections
// are to go to is made as lanes, mark-keyed virtual servers that no packet reaches; one transaction puts the packets for
// the VirtualServer's addresses onto them; behind that, the address-keyed virtual servers are rewritten; and a second
// transaction takes the rules away, which leaves the lanes to drain. Established connections are found by
// their addresses before any mark is looked at, and never move.
//
// Nothing of this is remembered but which mark is whose (the ledger). Each round of a pass decides from what was
// read what comes next, so a daemon that was killed anywhere goes on from there.

// Marks is a range of firewall marks that are ours to give.
type Marks struct{ First, Count uint32 }

// DefaultMarks is the range where none is configured: "Pm" and 16 bits.
var DefaultMarks = Marks{First: 0x506d0000, Count: 1 << 16}

// crossing is how far one VirtualServer is in a cut-over: what is to be there in this round.
type crossing struct {
	lanes map[ipvs.Key]*VirtualServer // mark-keyed
	rules []nft.Steer
	// hold: its address-keyed virtual servers stay as they are in this round. behind: they are rewritten, provided
	// that the rules could be made.
	hold, behind bool
	keyed
}

// keyed is how a VirtualServer's packets find their way, and what is staged.
type keyed struct {
	marked bool // steering by mark
	why    string
	// away: its address-keyed virtual servers are not wanted, since rules steer all packets past them.
	away bool
	// staged is the colour whose lanes were read back beside those that serve; "" when none is.
	staged string
}

// steering are the crossings of all VirtualServers that have one.
type steering struct {
	of map[types.NamespacedName]*crossing
	// onTheWay are those that the next round has to look at whatever else it does.
	onTheWay map[types.NamespacedName]bool
	free     uint32 // where to look for a free mark
}

// steered is what our rules say now, by address.
type steered struct {
	plain   map[nft.Endpoint]uint32 // for every client
	sourced map[nft.Endpoint][]nft.Steer
	marks   map[ipvs.Key]bool // that some rule puts packets on
}

func readSteering(rules []nft.Steer) steered {
	s := steered{plain: map[nft.Endpoint]uint32{}, sourced: map[nft.Endpoint][]nft.Steer{}, marks: map[ipvs.Key]bool{}}
	for _, rule := range rules {
		s.marks[markKey(rule.Mark, rule.Addr)] = true
		if rule.Source.IsValid() {
			s.sourced[rule.Endpoint] = append(s.sourced[rule.Endpoint], rule)
		} else if s.plain[rule.Endpoint] == 0 {
			s.plain[rule.Endpoint] = rule.Mark
		}
	}
	return s
}

// markKey is the key of a mark of the family of an address.
func markKey(mark uint32, like netip.Addr) ipvs.Key {
	return ipvs.Key{Mark: mark, Addr: unspecified(like)}
}

// unspecified is the unspecified address of the family of an address.
func unspecified(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// steer decides for each owner what this round is to make. It gives marks to lanes that have none, in the
// ledger, before anything is written.
func (r *Reconciler) steer(have kernel, owners []types.NamespacedName) {
	if r.steering.of == nil {
		r.steering.of = map[types.NamespacedName]*crossing{}
	}
	r.steering.onTheWay = map[types.NamespacedName]bool{}
	given := &givenMarks{r: r}
	rules := readSteering(have.rules.Steering)
	for _, owner := range owners {
		switch {
		case r.target.Held[owner]:
			c := &crossing{} // as it is
			for _, rule := range have.rules.Steering {
				if o := r.ledger.Owned[markKey(rule.Mark, rule.Addr)]; o != nil && o.Owner == owner {
					c.rules = append(c.rules, rule)
				}
			}
			r.steering.of[owner] = c
			continue
		case len(r.target.ByOwner[owner]) == 0 || r.released[owner]:
			delete(r.steering.of, owner)
			continue
		}
		c := r.cross(owner, have, rules, given)
		r.steering.of[owner] = c
		sourced, plain := rules.of(r.target.ByOwner[owner])
		if c.hold || c.behind || !slices.Equal(c.rules, slices.Concat(sourced, plain)) {
			r.steering.onTheWay[owner] = true
		}
	}
}

// of are the rules there are for these addresses: those for some clients only, and those for all.
func (s steered) of(keys []ipvs.Key) (sourced, plain []nft.Steer) {
	for _, key := range keys {
		e := MasqueradeElement(key)
		sourced = append(sourced, s.sourced[e]...)
		if mark := s.plain[e]; mark != 0 {
			plain = append(plain, nft.Steer{Endpoint: e, Mark: mark})
		}
	}
	return sourced, plain
}

// compareSteers has rules in the order in which packets meet them: first those for some clients only, of these the
// narrower ones.
func compareSteers(a, b nft.Steer) int {
	if forSome := a.Source.IsValid(); forSome != b.Source.IsValid() {
		if forSome {
			return -1
		}
		return 1
	}
	return cmp.Or(compareKeys(endpointKey(a.Endpoint), endpointKey(b.Endpoint)),
		-cmp.Compare(a.Source.Bits(), b.Source.Bits()), a.Source.Addr().Compare(b.Source.Addr()))
}

// cross decides for one VirtualServer.
func (r *Reconciler) cross(owner types.NamespacedName, have kernel, rules steered, given *givenMarks) *crossing {
	now, keys := ptr.Deref(r.target.Rollouts[owner], serving{}), r.switched(owner)
	c := &crossing{}
	c.marked, c.why = r.byMark(now.steering, have)
	if have.noRules != nil {
		return c // the batch alone
	}
	noMark := false
	ready := func(m mix) (want []nft.Steer, ok bool) {
		ok = true
		for _, l := range lanesOf(&r.target, keys, m) {
			mark, free := given.of(owner, l)
			if !free {
				noMark = true
				return nil, false
			}
			v := l.want
			v.Service.Key = mark
			if c.lanes == nil {
				c.lanes = map[ipvs.Key]*VirtualServer{}
			}
			c.lanes[mark] = &v
			ok = ok && v.heldBy(r.table.find(mark))
			for _, key := range l.keys {
				want = append(want, nft.Steer{Endpoint: MasqueradeElement(key), Mark: mark.Mark})
			}
		}
		slices.SortFunc(want, compareSteers)
		return want, ok
	}
	need, right, in := false, true, false
	for _, key := range keys {
		in = in || rules.plain[MasqueradeElement(key)] != 0
		v, h := r.target.Servers[key], r.table.find(key)
		right = right && v.heldBy(h)
		need = need || h != nil && v.mixes(h)
	}
	sourced, plain := rules.of(keys)
	if now.staged != "" {
		if _, ok := ready(mix{colour: now.staged}); ok {
			c.staged = now.staged
		}
	}
	switch {
	case c.marked, need, in && !right:
		want, ok := ready(now.mix)
		c.rules = plain
		if ok {
			c.rules = want
		}
		there := ok && slices.Equal(plain, want)
		c.hold = (need && !ok || c.marked && !there) && !noMark
		c.away = there && c.marked
		// Rewritten at once behind the rules: until the previous colour is at weight 0, what hits an entry of a connection
		// that is not quite over (a SYN that comes again, a port used again early) still goes there.
		c.behind = need && ok && !there
	}
	if now.previews != "" {
		if want, ok := ready(mix{colour: now.previews}); ok {
			sourced = nil
			for _, source := range now.sources {
				for _, w := range want {
					if w.Addr.Is4() == source.Addr().Is4() {
						w.Source = source
						sourced = append(sourced, w)
					}
				}
			}
			slices.SortFunc(sourced, compareSteers)
		}
		c.rules = slices.Concat(sourced, c.rules)
	}
	return c
}

// steered are the addresses of which some rule puts packets on a mark, with their clients where it is not all of them.
func (c *crossing) steered(mark ipvs.Key) (out []string) {
	for _, rule := range c.rules {
		if rule.Mark != mark.Mark || rule.Addr.Is4() != mark.Addr.Is4() {
			continue
		}
		text := endpointKey(rule.Endpoint).String()
		if rule.Source.IsValid() {
			text += " from " + rule.Source.String()
		}
		out = append(out, text)
	}
	return out
}

// endpointKey is the address-keyed virtual server of an element of our table.
func endpointKey(e nft.Endpoint) ipvs.Key {
	return ipvs.Key{Protocol: ipvs.Protocol(e.Protocol), Addr: e.Addr, Port: e.Port}
}

// switched are the keys of a VirtualServer that are switched together: all but the preview's own, and but for those
// where somebody else's virtual server stands, whose packets are not ours to steer.
func (r *Reconciler) switched(owner types.NamespacedName) []ipvs.Key {
	other := func(key ipvs.Key) bool {
		return r.target.Servers[key].preview || r.table.find(key) != nil && !r.ledger.Owns(key)
	}
	keys := r.target.ByOwner[owner]
	if slices.ContainsFunc(keys, other) {
		keys = slices.DeleteFunc(slices.Clone(keys), other)
	}
	return keys
}

// heldBy says whether h is v: its options and real servers, and none beside them that gets new connections.
func (v *VirtualServer) heldBy(h *ipvs.ServiceInfo) bool {
	if h == nil || h.Service != v.Service {
		return false
	}
	missing := len(v.Reals)
	for i := range h.Reals {
		real := v.real(h.Reals[i].RealKey)
		switch {
		case real != nil && *real == h.Reals[i].RealServer:
			missing--
		case real != nil, h.Reals[i].Weight > 0:
			return false
		}
	}
	return missing == 0
}

// real is the real server of a key among those that v is to have, nil when it is none.
func (v *VirtualServer) real(key ipvs.RealKey) *ipvs.RealServer {
	at, wanted := slices.BinarySearchFunc(v.Reals, key, func(r ipvs.RealServer, k ipvs.RealKey) int { return compareReals(r.RealKey, k) })
	if !wanted {
		return nil
	}
	return &v.Reals[at]
}

// mixes says whether rewriting h into v in place would have clients meet colours that v does not serve after they met
// one that it does, or refuse them: another scheduler does, for an RCU grace period (ip_vs_edit_service of
// net/netfilter/ipvs/ip_vs_ctl.c). Real servers that come and go within a colour do not.
func (v *VirtualServer) mixes(h *ipvs.ServiceInfo) bool {
	if len(v.Reals) == 0 {
		return false
	}
	if h.Scheduler != v.Service.Scheduler {
		return true
	}
	var colours map[ipvs.RealKey]string // made when it is needed, which is seldom
	for i := range h.Reals {
		key := h.Reals[i].RealKey
		if h.Reals[i].Weight == 0 || v.real(key) != nil {
			continue
		}
		if colours == nil {
			colours = v.colours()
		}
		if c := colours[key]; c != "" && !v.mix.has(c) {
			return true
		}
	}
	return false
}

// byMark says whether a VirtualServer is steered by mark for good, and why so when that is not by declaration.
func (r *Reconciler) byMark(s v1alpha1.Steering, have kernel) (marked bool, why string) {
	switch {
	case have.noRules != nil:
		why = "there are no nftables here, so a switch is one batch of writes: " + have.noRules.Error()
		return false, why
	case s == v1alpha1.SteeringMark:
		return true, "declared"
	case s == v1alpha1.SteeringAddress:
		return false, "declared"
	case r.ledger.Undone && have.device.KubeProxy:
		return true, "kube-proxy in ipvs mode deletes the address-keyed virtual servers here, and leaves mark-keyed ones alone"
	}
	return false, ""
}

// givenMarks are the marks of lanes, in one round. Nothing is looked up before a lane asks, which in nearly all
// rounds none does.
type givenMarks struct {
	r    *Reconciler
	lane map[laneRef]ipvs.Key // nil: not looked up yet
	used map[uint32]bool      // nil: the same
}

type laneRef struct {
	owner  types.NamespacedName
	id     string
	family netip.Addr
}

// of is the mark of a lane, a free one when it has none yet; false when none is free.
func (g *givenMarks) of(owner types.NamespacedName, l *lane) (ipvs.Key, bool) {
	if g.lane == nil {
		g.lane = map[laneRef]ipvs.Key{}
		for key, o := range g.r.ledger.Owned {
			if key.Mark != 0 {
				g.lane[laneRef{o.Owner, o.Lane, key.Addr}] = key
			}
		}
	}
	ref := laneRef{owner, l.id, l.family}
	if key, ok := g.lane[ref]; ok {
		return key, true
	}
	if g.used == nil {
		g.used = map[uint32]bool{}
		for key := range g.r.ledger.Owned {
			g.used[key.Mark] = true
		}
		for i := range g.r.table.services {
			g.used[g.r.table.services[i].Mark] = true
		}
	}
	marks := g.r.Marks
	if marks.Count == 0 {
		marks = DefaultMarks
	}
	for range marks.Count {
		mark := marks.First + g.r.steering.free%marks.Count
		g.r.steering.free++ // a mark is used again as late as can be
		if mark == 0 || g.used[mark] {
			continue
		}
		key := markKey(mark, l.family)
		g.used[mark], g.lane[ref] = true, key
		g.r.ledger.Owned[key] = &Owned{Owner: owner, Drain: l.want.Drain, Lane: l.id, Protocol: l.protocol, Draining: map[ipvs.RealKey]Draining{}}
		g.r.ledger.dirty = true
		return key, true
	}
	g.r.Log.WithField("virtualserver", owner.String()).Error(fmt.Sprintf("none of the %d firewall marks from %#x is free, so the switch is one batch of writes; configure a larger range", marks.Count, marks.First))
	return ipvs.Key{}, false
}

// want is a virtual server as it is to be, nil when it is not: a lane, or an address-keyed one that packets reach.
func (r *Reconciler) want(key ipvs.Key) *VirtualServer {
	if key.Mark != 0 {
		if o := r.ledger.Owned[key]; o != nil && r.steering.of[o.Owner] != nil {
			return r.steering.of[o.Owner].lanes[key]
		}
		return nil
	}
	v := r.target.Servers[key]
	if v != nil && !v.preview && r.steering.of[v.Owner] != nil && r.steering.of[v.Owner].away {
		return nil
	}
	return v
}

// rules are all the steering rules that are to be there, in order.
func (s *steering) rules() (all []nft.Steer) {
	for _, c := range s.of {
		all = append(all, c.rules...)
	}
	slices.SortFunc(all, compareSteers)
	return all
}

// owners are the VirtualServers that a pass over what concerns, sorted.
func (r *Reconciler) owners(what *touched) []types.NamespacedName {
	set := map[types.NamespacedName]bool{}
	add := func(key ipvs.Key) {
		if v := r.target.Servers[key]; v != nil {
			set[v.Owner] = true
		}
		if o := r.ledger.Owned[key]; o != nil {
			set[o.Owner] = true
		}
	}
	if what != nil {
		for key := range what.keys {
			add(key)
		}
		for owner := range r.steering.of { // declared no more
			if len(r.target.ByOwner[owner]) == 0 && !r.target.Held[owner] {
				set[owner] = true
			}
		}
	} else {
		for owner := range r.target.ByOwner {
			set[owner] = true
		}
		for key := range r.ledger.Owned {
			add(key)
		}
		for owner := range r.steering.of {
			set[owner] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), compareNames)
}

// keysOf are all virtual servers of some VirtualServers, those that go and lanes included; nil, everything, when
// what is.
func (r *Reconciler) keysOf(owners []types.NamespacedName, what *touched) *touched {
	if what == nil {
		return nil
	}
	all := touched{keys: maps.Clone(what.keys), options: what.options}
	set := map[types.NamespacedName]bool{}
	for _, owner := range owners {
		set[owner] = true
		for _, key := range r.target.ByOwner[owner] {
			all.keys[key] = true
		}
	}
	for key, o := range r.ledger.Owned {
		if set[o.Owner] {
			all.keys[key] = true
		}
	}
	return &all
}
