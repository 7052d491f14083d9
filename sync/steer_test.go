package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/rollout"
)

// traffic tells where the kernel's tables send a new connection, as the kernel looks it up: the first rule
// that matches gives the mark, a mark's virtual server comes before the address's.
type traffic struct {
	read  func() (nft.Ruleset, map[ipvs.Key]ipvs.ServiceInfo)
	watch []nft.Endpoint
	// seen is each different answer, in order, of each watched address: the colours that it may be.
	seen map[nft.Endpoint][]string
}

func (w *traffic) colours(e nft.Endpoint, from netip.Addr) string {
	rules, services := w.read()
	service, found := services[endpointKey(e)]
	for _, rule := range rules.Steering {
		if rule.Endpoint == e && (!rule.Source.IsValid() || rule.Source.Contains(from)) {
			if marked, ok := services[markKey(rule.Mark, e.Addr)]; ok {
				service, found = marked, true
			}
			break
		}
	}
	if !found {
		return "nothing"
	}
	colours := map[string]bool{}
	for _, r := range service.Reals {
		if r.Weight > 0 {
			colours[fmt.Sprintf("v%d", r.Addr.As4()[2])] = true
		}
	}
	if len(colours) == 0 {
		return "refused"
	}
	return strings.Join(slices.Sorted(maps.Keys(colours)), "+")
}

func (w *traffic) look() {
	for _, e := range w.watch {
		now := w.colours(e, netip.MustParseAddr("203.0.113.9"))
		if n := len(w.seen[e]); n == 0 || w.seen[e][n-1] != now {
			w.seen[e] = append(w.seen[e], now)
		}
	}
}

// watched looks after each single op of either kind, and has the op numbered killed, and all after it, not happen.
func (b *bench) watched(t require.TestingT, killed int) *traffic {
	w := &traffic{seen: map[nft.Endpoint][]string{}, read: func() (nft.Ruleset, map[ipvs.Key]ipvs.ServiceInfo) {
		rules, _, err := b.rules.Read()
		require.NoError(t, err)
		return rules, tableOf(t, b.kernel)
	}}
	for key := range b.target.Servers {
		w.watch = append(w.watch, MasqueradeElement(key))
	}
	done := 0
	die := func() error {
		w.look()
		if done++; done > killed {
			return errKilled
		}
		return nil
	}
	b.mortal(die)
	return w
}

// mortal has die asked before each single op of either kind; what it refuses does not happen.
func (b *bench) mortal(die func() error) {
	b.Reconciler.IPVS, b.Reconciler.NFT = &deadlyTable{b.kernel, die}, &deadly{b.rules, die}
}

var errKilled = errors.New("killed")

type deadly struct {
	NFT
	die func() error
}

type deadlyTable struct {
	IPVS
	die func() error
}

func (d *deadlyTable) Apply(ctx context.Context, ops []ipvs.Op) error {
	for _, op := range ops {
		if err := d.die(); err != nil {
			return err
		}
		if err := d.IPVS.Apply(ctx, []ipvs.Op{op}); err != nil {
			return err
		}
	}
	return nil
}

func (d *deadly) Commit(ops []nft.Op) error {
	if err := d.die(); err != nil {
		return err
	}
	return d.NFT.Commit(ops)
}

const noKill = 1 << 30

// A switch, and a change of scheduler, is one instant for each way in: no op of either leads through a table that
// refuses, or that sends to both colours.
func TestCutOverIsOneInstant(t *testing.T) {
	both := map[string]int{"v1": 3, "v2": 2}
	for name, change := range map[string]func() endpoints.Server{
		"colour":    func() endpoints.Server { return server("v2", both) },
		"scheduler": func() endpoints.Server { s := server("v1", both); s.Spec.Scheduler.Name = "wrr"; return s },
		"both":      func() endpoints.Server { s := server("v2", both); s.Spec.Scheduler.Name = "mh"; return s },
		"affinity": func() endpoints.Server {
			s := server("v2", both)
			s.Affinity = 600
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, t.TempDir())
			b.declare(t, server("v1", both))
			b.busy(1, 1)
			w := b.watched(t, noKill)
			to := change()
			status := b.declare(t, to)
			w.look()
			require.Empty(t, status.Error)
			require.True(t, status.Server(owner).Verified)
			for _, e := range w.watch {
				want := []string{"v1", to.Spec.Active}
				if to.Spec.Active == "v1" {
					want = want[:1]
				}
				assert.Equal(t, want, w.seen[e], "%s", e)
			}
			rules, _, err := b.rules.Read()
			require.NoError(t, err)
			require.Empty(t, rules.Steering, "no rule is left")
			for key := range tableOf(t, b.kernel) {
				require.Zero(t, key.Mark, "the lanes had no connection")
			}
		})
	}
}

// Rules that cannot be made: nothing is rewritten, and the next pass does it.
func TestRulesThatFailHoldTheRewriting(t *testing.T) {
	both := map[string]int{"v1": 2, "v2": 2}
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", both))
	w := b.watched(t, noKill)
	b.Reconciler.NFT = &deadly{b.rules, func() error { w.look(); return errKilled }}
	require.NotEmpty(t, b.declare(t, server("v2", both)).Error)
	b.Reconciler.NFT = &deadly{b.rules, func() error { w.look(); return nil }}
	require.Empty(t, b.declare(t, server("v2", both)).Error)
	w.look()
	for _, e := range w.watch {
		require.Equal(t, []string{"v1", "v2"}, w.seen[e])
	}
}

// Scaling, and pods that come and go, are not steered.
func TestScalingIsNotSteered(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.declare(t, server("v1", map[string]int{"v1": 3}))
	b.kernel.Intercept(func(_ int, op ipvs.Op) error {
		require.Zero(t, op.Service.Mark)
		return nil
	})
	for _, n := range []int{5, 1, 0, 2} {
		b.declare(t, server("v1", map[string]int{"v1": n, "v2": n}))
	}
}

// Killed before any op of either kind, and whatever is declared then: the next daemon leads from there to what
// is declared, with no state in between that refuses, and none that goes back.
func TestCutOverKilledAtEveryOp(t *testing.T) {
	both := map[string]int{"v1": 2, "v2": 2}
	for _, then := range []string{"v2", "v1"} {
		for _, steering := range []v1alpha1.Steering{"", v1alpha1.SteeringMark} {
			declared := func(active string) endpoints.Server {
				s := server(active, both)
				s.Spec.Steering = steering
				return s
			}
			for at := 0; ; at++ {
				b := newBench(t, t.TempDir())
				b.declare(t, declared("v1"))
				b.busy(1, 1)
				w := b.watched(t, at)
				b.declare(t, declared("v2"))
				killed := b.lastError != ""
				w.look()

				b.restart(t)
				b.mortal(func() error { w.look(); return nil })
				status := b.declare(t, declared(then))
				w.look()
				require.Empty(t, status.Error, "%s killed at %d", steering, at)
				require.True(t, status.Server(owner).Verified, "%s killed at %d", steering, at)
				for _, e := range w.watch {
					seen := slices.Compact(slices.Clone(w.seen[e]))
					switch {
					case then == "v2":
						require.Equal(t, []string{"v1", "v2"}, seen, "%s killed at %d", steering, at)
					case len(seen) > 1:
						require.Equal(t, []string{"v1", "v2", "v1"}, seen, "%s killed at %d", steering, at)
					default:
						require.Equal(t, []string{"v1"}, seen)
					}
				}
				if !killed {
					require.Greater(t, at, 6)
					break
				}
			}
		}
	}
}

// By mark: no address-keyed virtual server, standing rules, and a switch replaces them in one transaction.
func TestSteeringByMark(t *testing.T) {
	both := map[string]int{"v1": 2, "v2": 2}
	declared := func(active string, steering v1alpha1.Steering, ready map[string]int) endpoints.Server {
		s := server(active, ready)
		s.Spec.Steering = steering
		return s
	}
	b := newBench(t, t.TempDir())
	b.declare(t, declared("v1", v1alpha1.SteeringAddress, both))
	w := b.watched(t, noKill)
	step := func(active string, steering v1alpha1.Steering, ready map[string]int, want ...string) {
		t.Helper()
		clear(w.seen)
		w.look()
		status := b.declare(t, declared(active, steering, ready))
		w.look()
		require.Empty(t, status.Error)
		require.True(t, status.Server(owner).Verified)
		for _, e := range w.watch {
			require.Equal(t, want, w.seen[e])
		}
		marked := 0
		for key := range tableOf(t, b.kernel) {
			if key.Mark != 0 {
				marked++
			}
		}
		if steering != v1alpha1.SteeringAddress {
			require.Len(t, tableOf(t, b.kernel), marked, "no address-keyed one")
			require.Equal(t, 1, marked, "one for all ways in that share real servers")
		} else {
			require.Zero(t, marked)
		}
		b.pass(b.ctx, false)
		require.Equal(t, "v"+active[1:], w.colours(w.watch[0], netip.MustParseAddr("203.0.113.9")))
	}
	step("v1", v1alpha1.SteeringMark, both, "v1")
	step("v2", v1alpha1.SteeringMark, both, "v1", "v2")
	step("v2", v1alpha1.SteeringMark, map[string]int{"v1": 1, "v2": 3}, "v2")
	step("v1", v1alpha1.SteeringMark, both, "v2", "v1")
	step("v1", v1alpha1.SteeringAddress, both, "v1")
	step("v2", v1alpha1.SteeringAddress, both, "v1", "v2")

	// kube-proxy deletes what is keyed by addresses: Auto steers past it, and is not undone again.
	b.node.SetKubeProxy(true)
	b.declare(t, declared("v2", v1alpha1.SteeringAuto, both))
	b.wipe(t)
	b.pass(b.ctx, false)
	require.Empty(t, b.lastError)
	require.Equal(t, "v2", w.colours(w.watch[0], netip.MustParseAddr("203.0.113.9")))
	b.restart(t)
	step("v1", v1alpha1.SteeringAuto, both, "v2", "v1")
}

// What is staged gets no packet; shares follow weights whatever the numbers of endpoints; previews are for
// their sources only.
func TestStagedSharedPreviewed(t *testing.T) {
	b := newBench(t, t.TempDir())
	ready := map[string]int{"v1": 3, "v2": 2}
	declare := func(s endpoints.Server, state rollout.State) *Status { // as decided elsewhere
		b.source.snap = &endpoints.Snapshot{Servers: []endpoints.Server{s}}
		require.NoError(t, b.derive(true))
		b.ledger.Rollouts[owner], b.ledger.dirty = state, true
		b.target = Desire(Input{Snapshot: b.snapshot, Rollouts: b.ledger.Rollouts, NodeName: b.NodeName, NodeAddresses: b.addresses})
		seen, err := b.converge(b.ctx, nil)
		return b.observe(seen, err)
	}
	s := server("v1", ready)
	b.declare(t, s)
	w := b.watched(t, noKill)
	staged := rollout.State{Active: "v1", Candidate: "v2", Phase: v1alpha1.PhaseStaging}
	status := declare(s, staged)
	require.Empty(t, status.Error)
	require.Equal(t, "v2", status.Server(owner).Staged)
	lanes := func() (out []ipvs.ServiceInfo) {
		for key, s := range tableOf(t, b.kernel) {
			if key.Mark != 0 {
				out = append(out, s)
			}
		}
		return out
	}
	require.Len(t, lanes(), 1)
	require.Len(t, lanes()[0].Reals, 2)
	// Its endpoints change while it is staged.
	more := server("v1", map[string]int{"v1": 3, "v2": 4})
	declare(more, staged)
	require.Len(t, lanes()[0].Reals, 4)
	for _, e := range w.watch {
		require.Equal(t, []string{"v1"}, w.seen[e], "no packet reaches it")
	}

	shared := staged
	shared.Weight = 10
	status = declare(more, shared)
	require.Empty(t, status.Error)
	require.EqualValues(t, 10, status.Server(owner).Weight)
	for key := range b.target.Servers {
		service := tableOf(t, b.kernel)[key]
		require.Equal(t, "wrr", service.Scheduler, "rr knows no weights")
		total := map[byte]uint32{}
		for _, r := range service.Reals {
			total[r.Addr.As4()[2]] += r.Weight
		}
		require.Equal(t, total[1], 9*total[2], "10%% of the connections: %v", total)
	}
	declare(more, rollout.State{Active: "v2", Previous: "v1", Phase: v1alpha1.PhaseSteady})
	w.look()
	for _, e := range w.watch {
		require.Equal(t, []string{"v1", "v1+v2", "v2"}, w.seen[e])
	}

	more.Spec.Active = "v2"
	more.Spec.Preview = &v1alpha1.Preview{Colour: "v1", NodePort: new(int32(31080)), Sources: []string{"198.51.100.0/24"}}
	status = b.declare(t, more)
	require.Empty(t, status.Error)
	e := nft.Endpoint{Protocol: 6, Addr: netip.MustParseAddr("192.0.2.10"), Port: 30080}
	require.Equal(t, "v2", w.colours(e, netip.MustParseAddr("203.0.113.9")))
	require.Equal(t, "v1", w.colours(e, netip.MustParseAddr("198.51.100.7")))
	e.Port = 31080
	require.Equal(t, "v1", w.colours(e, netip.MustParseAddr("203.0.113.9")))
	told := meta.FindStatusCondition(status.Server(owner).Status.Conditions, v1alpha1.ConditionPreviewReady)
	require.Equal(t, metav1.ConditionTrue, told.Status)
	require.Contains(t, told.Message, "on node port 31080 and from 198.51.100.0/24")
	more.Spec.Preview = nil
	b.declare(t, more)
	require.Empty(t, lanes())
}

// Without nftables the batch alone switches, and it is said so.
func TestSwitchWithoutNftables(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.rules.Err = nft.ErrUnsupported
	s := server("v1", map[string]int{"v1": 2, "v2": 2})
	s.Spec.Forwarding = v1alpha1.Direct
	b.declare(t, s)
	s.Spec.Active = "v2"
	status := b.declare(t, s)
	require.Empty(t, status.Error)
	require.True(t, status.Server(owner).Verified)
	require.Equal(t, "Address", status.Server(owner).Steering)
	require.Contains(t, status.Server(owner).SteeringReason, "one batch of writes")
	s.Spec.Forwarding, s.Digest = v1alpha1.Masquerade, "another"
	status = b.declare(t, s)
	require.Contains(t, status.Error, "masquerade", "which cannot work")
}

// A range that has no mark free: the batch, and no standstill.
func TestMarksRunOut(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.Config.Marks = Marks{First: 7, Count: 1}
	b.Reconciler.Config = b.Config
	require.NoError(t, b.kernel.Apply(context.Background(), []ipvs.Op{{Verb: ipvs.AddService, Service: ipvs.Service{
		Key: markKey(7, netip.IPv4Unspecified()), Scheduler: "rr", Netmask: 0xffffffff}}}))
	b.declare(t, server("v1", map[string]int{"v1": 2, "v2": 2}))
	status := b.declare(t, server("v2", map[string]int{"v1": 2, "v2": 2}))
	require.Empty(t, status.Error)
	require.True(t, status.Server(owner).Verified)
	require.Contains(t, b.serving(t), "FWM 7", "somebody else's")
}

// Whatever the ports, protocols and ways in: all of a VirtualServer switch in the same transaction.
func TestAllWaysSwitchAtOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, t.TempDir())
		b.node.SetAddresses(netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10"))
		s := server("v1", nil)
		s.Ports = nil
		for i := range rapid.IntRange(1, 3).Draw(rt, "ports") {
			p := endpoints.Port{
				Name:     fmt.Sprintf("p%d", i),
				Protocol: rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP"}).Draw(rt, "protocol"),
				Ways: []endpoints.Way{
					{Kind: endpoints.NodePort, Addr: netip.IPv4Unspecified(), Port: uint16(30080 + i), LocalOnly: rapid.Bool().Draw(rt, "local")},
					{Kind: endpoints.NodePort, Addr: netip.IPv6Unspecified(), Port: uint16(30080 + i)},
					{Kind: endpoints.ClusterIP, Addr: netip.MustParseAddr("10.96.0.10"), Port: uint16(80 + i)},
				},
			}
			for c := range 2 {
				for n := range rapid.IntRange(1, 3).Draw(rt, "endpoints") {
					colour := fmt.Sprintf("v%d", c+1)
					e := endpoints.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 244, byte(c + 1), byte(n + 1)}), Port: uint16(8080 + i), Colour: colour, Ready: true, Serving: true, Node: "mast01"}
					p.Endpoints = append(p.Endpoints, e)
					e.Addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(16*(c+1) + n)})
					p.Endpoints = append(p.Endpoints, e)
				}
			}
			slices.SortFunc(p.Endpoints, func(a, b endpoints.Endpoint) int { return a.Addr.Compare(b.Addr) })
			s.Ports = append(s.Ports, p)
		}
		s.Spec.Steering = rapid.SampledFrom([]v1alpha1.Steering{"", v1alpha1.SteeringMark}).Draw(rt, "steering")
		s.Spec.Forwarding = rapid.SampledFrom([]v1alpha1.ForwardingMethod{v1alpha1.Masquerade, v1alpha1.Direct, v1alpha1.Tunnel}).Draw(rt, "forwarding")
		b.declare(t, s)
		require.Empty(rt, b.lastError)
		commits := map[string]bool{}
		b.mortal(func() error {
			rules, _, err := b.rules.Read()
			require.NoError(rt, err)
			commits[fmt.Sprint(len(rules.Steering))] = true
			return nil
		})
		s.Spec.Active = "v2"
		status := b.declare(t, s)
		require.Empty(rt, b.lastError)
		require.True(rt, status.Server(owner).Verified)
		all := len(b.target.Servers)
		for n := range commits {
			require.Contains(rt, []string{"0", fmt.Sprint(all)}, n, "none or all are steered")
		}
	})
}

// One that is steered by mark and declared no more: its lane drains, and the addresses stay until it has.
func TestRemovedWhileSteeredByMark(t *testing.T) {
	b := newBench(t, t.TempDir())
	s := server("v1", map[string]int{"v1": 1})
	s.Spec.Steering = v1alpha1.SteeringMark
	b.declare(t, s)
	var lane ipvs.Key
	for key := range tableOf(t, b.kernel) {
		lane = key
	}
	require.NotZero(t, lane.Mark)
	b.kernel.SetReal(lane, podReal(1, 1, 1).RealKey, ipvs.RealInfo{Active: 1})
	b.declare(t)
	require.Empty(t, b.lastError)
	rules, _, err := b.rules.Read()
	require.NoError(t, err)
	require.Empty(t, rules.Steering, "no new connection")
	require.Equal(t, map[string]map[string]uint32{lane.String(): {podReal(1, 1, 1).RealKey.String(): 0}}, b.serving(t))
	device, err := b.node.ReadDevice()
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.96.0.10")}, device.Addresses)
	b.kernel.SetReal(lane, podReal(1, 1, 1).RealKey, ipvs.RealInfo{})
	for range 3 {
		b.pass(b.ctx, false)
	}
	require.Empty(t, b.serving(t))
	require.Empty(t, b.ledger.Owned)
	device, err = b.node.ReadDevice()
	require.NoError(t, err)
	require.Empty(t, device.Addresses)
}

// A declaration that is refused leaves a VirtualServer that is steered by mark as it is, over a restart too.
func TestRefusedWhileSteeredByMark(t *testing.T) {
	b := newBench(t, t.TempDir())
	s := server("v1", map[string]int{"v1": 2})
	s.Spec.Steering = v1alpha1.SteeringMark
	b.declare(t, s)
	before := b.serving(t)
	rules, _, err := b.rules.Read()
	require.NoError(t, err)
	require.NotEmpty(t, rules.Steering)
	b.restart(t)
	refused := endpoints.Server{Key: owner, Spec: s.Spec, Digest: "bad", Refused: &endpoints.Refusal{Reason: "PortTaken", Message: "x"}}
	b.declare(t, refused)
	b.pass(b.ctx, false)
	require.Empty(t, b.lastError)
	require.Equal(t, before, b.serving(t))
	now, _, err := b.rules.Read()
	require.NoError(t, err)
	require.Equal(t, rules.Steering, now.Steering)
}

// What somebody else has in the place of one of ours is not steered either.
func TestForeignIsNotSteered(t *testing.T) {
	both := map[string]int{"v1": 1, "v2": 1}
	for _, steering := range []v1alpha1.Steering{v1alpha1.SteeringAddress, v1alpha1.SteeringMark} {
		b := newBench(t, t.TempDir())
		foreign := ipvs.Service{Key: contested, Scheduler: "lc", Netmask: 0xffffffff}
		require.NoError(t, b.kernel.Apply(b.ctx, []ipvs.Op{{Verb: ipvs.AddService, Service: foreign}}))
		declared := func(active string) endpoints.Server {
			s := server(active, both)
			s.Spec.Steering = steering
			return s
		}
		b.declare(t, declared("v1"))
		look := func() error {
			rules, _, err := b.rules.Read()
			require.NoError(t, err)
			for _, rule := range rules.Steering {
				require.NotEqual(t, MasqueradeElement(contested), rule.Endpoint)
			}
			return nil
		}
		b.mortal(look)
		status := b.declare(t, declared("v2"))
		require.NoError(t, look())
		require.Empty(t, status.Error)
		require.Contains(t, b.serving(t), contested.String())
		require.Empty(t, b.serving(t)[contested.String()])
	}
}
