package nft

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// table is what Conn and Fake both are.
type table interface {
	reader
	Apply(Ruleset) ([]Op, error)
	Generation() (uint32, error)
	Delete() error
	Close() error
}

func TestFake(t *testing.T) { testTable(t, func(testing.TB) table { return new(Fake) }) }

func TestKernelTable(t *testing.T) {
	testTable(t, func(t testing.TB) table { return open(t) })
}

// open is a Conn in a namespace of its own.
func open(t testing.TB) *Conn {
	kerneltest.Namespace(t)
	c, err := Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func addr(s string) netip.Addr        { return netip.MustParseAddr(s) }
func cidr(s string) netip.Prefix      { return netip.MustParsePrefix(s) }
func tcp(a string, p uint16) Endpoint { return Endpoint{unix.IPPROTO_TCP, addr(a), p} }
func udp(a string, p uint16) Endpoint { return Endpoint{unix.IPPROTO_UDP, addr(a), p} }
func sctp(a string, p uint16) Endpoint {
	return Endpoint{unix.IPPROTO_SCTP, addr(a), p}
}

// full has an element in each set, networks of every kind (whole bytes, part of one, one address) and such clients to steer.
func full() Ruleset {
	return Ruleset{
		Virtual: map[Endpoint]Masquerade{
			tcp("192.0.2.10", 30080): Always, udp("192.0.2.10", 30080): Always, tcp("2001:db8::10", 30080): Always,
			tcp("10.96.0.10", 80): ClusterIP, {unix.IPPROTO_SCTP, addr("fd00:96::10"), 80}: ClusterIP,
		},
		Hairpin: map[netip.Addr]struct{}{addr("10.244.1.5"): {}, addr("fd00:244::5"): {}},
		ClusterCIDRs: []netip.Prefix{cidr("10.244.0.0/16"), cidr("172.16.0.0/12"), cidr("192.0.2.77/32"), cidr("10.245.3.0/25"),
			cidr("fd00:244::/48"), cidr("fd00:245::/49")},
		Steering: []Steer{
			{tcp("192.0.2.10", 30080), cidr("198.51.100.0/24"), 0x70000002},
			{tcp("192.0.2.10", 30080), cidr("198.48.0.0/13"), 0x70000003},
			{tcp("192.0.2.10", 30080), netip.Prefix{}, 0x70000001},
			{udp("10.96.0.10", 53), cidr("203.0.113.7/32"), 1},
			{sctp("fd00:96::10", 80), netip.Prefix{}, 0xffffffff},
			{tcp("2001:db8::10", 30080), cidr("2001:db8:1::/48"), 0x70000004},
			{udp("2001:db8::10", 30080), cidr("2001:db8:1::/49"), 0x70000005},
			{udp("2001:db8::10", 30080), cidr("2001:db8::7/128"), 0x70000006},
		},
	}
}

func read(t require.TestingT, c reader) (Ruleset, State) {
	rules, state, err := c.Read()
	require.NoError(t, err)
	return rules, state
}

// holds is the whole of what a caller may rely on after an Apply: what was wanted is there and a second one writes
// nothing.
func holds(t require.TestingT, c table, want Ruleset) {
	have, state := read(t, c)
	require.True(t, state.Intact, state.Why)
	require.True(t, state.Present)
	require.True(t, want.Equal(have), "%v is not %v", have, want)
	ops, err := c.Apply(want)
	require.NoError(t, err)
	require.Empty(t, ops)
	after, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, state.Generation, after, "something was written")
}

func testTable(t *testing.T, open func(testing.TB) table) {
	t.Run("nothing there", func(t *testing.T) {
		c := open(t)
		have, state := read(t, c)
		require.False(t, state.Present)
		require.False(t, state.Intact)
		require.True(t, have.Equal(Ruleset{}))
		require.NoError(t, c.Delete())
		after, err := c.Generation()
		require.NoError(t, err)
		require.Equal(t, state.Generation, after, "nothing to delete, nothing written")
	})
	t.Run("empty", func(t *testing.T) {
		c := open(t)
		_, err := c.Apply(Ruleset{})
		require.NoError(t, err)
		holds(t, c, Ruleset{})
	})
	t.Run("full, elements, networks, delete", func(t *testing.T) {
		c := open(t)
		want := full()
		_, err := c.Apply(want)
		require.NoError(t, err)
		holds(t, c, want)

		want.Virtual[tcp("192.0.2.10", 30080)] = ClusterIP
		delete(want.Virtual, udp("192.0.2.10", 30080))
		want.Hairpin[addr("10.244.1.6")] = struct{}{}
		ops, err := c.Apply(want)
		require.NoError(t, err)
		require.Equal(t, []Op{
			{Verb: AddElement, Set: "clusterip4", Element: tcp("192.0.2.10", 30080)},
			{Verb: AddElement, Set: "hairpin4", Element: Endpoint{Addr: addr("10.244.1.6")}},
			{Verb: DelElement, Set: "masquerade4", Element: tcp("192.0.2.10", 30080)},
			{Verb: DelElement, Set: "masquerade4", Element: udp("192.0.2.10", 30080)},
		}, ops)
		holds(t, c, want)

		want.ClusterCIDRs = []netip.Prefix{cidr("10.0.0.0/8"), cidr("10.0.0.0/8")}
		_, err = c.Apply(want)
		require.NoError(t, err)
		holds(t, c, want)

		require.NoError(t, c.Delete())
		require.NoError(t, c.Delete())
		_, state := read(t, c)
		require.False(t, state.Present)
	})
	t.Run("steering", func(t *testing.T) {
		c := open(t)
		rest := full()
		rest.Steering = nil
		_, err := c.Apply(rest)
		require.NoError(t, err)
		holds(t, c, rest)

		verbs := func(ops []Op) (out []string) {
			for _, o := range ops {
				out = append(out, strings.TrimPrefix(o.String(), "nft "))
			}
			return out
		}
		rules := func(from []Steer) (out []string) {
			for _, chain := range []string{"steer_in", "steer_out"} {
				for _, s := range from {
					out = append(out, "add rule inet pointsman "+chain+" '"+s.String()+` comment "to the virtual server of this mark"'`)
				}
			}
			return out
		}
		want := rest.Clone()
		want.Steering = []Steer{{tcp("192.0.2.10", 30080), netip.Prefix{}, 7}, {udp("2001:db8::10", 53), cidr("fd00::/64"), 8}}
		ops, err := c.Apply(want)
		require.NoError(t, err)
		require.Equal(t, append([]string{
			`add chain inet pointsman steer_in '{ type filter hook input priority 90; policy accept; comment "what a virtual server of a mark takes, from outside and from pods"; }'`,
			`add chain inet pointsman steer_out '{ type filter hook output priority -110; policy accept; comment "what a virtual server of a mark takes, from this node"; }'`,
		}, rules(want.Steering)...), verbs(ops))
		holds(t, c, want)

		// The order counts; elements that differ too go with it.
		slices.Reverse(want.Steering)
		want.Hairpin[addr("10.244.1.6")] = struct{}{}
		delete(want.Virtual, udp("192.0.2.10", 30080))
		ops, err = c.Apply(want)
		require.NoError(t, err)
		expected := append([]string{"add element inet pointsman hairpin4 '{ 10.244.1.6 . 10.244.1.6 }'",
			"flush chain inet pointsman steer_in", "flush chain inet pointsman steer_out"}, rules(want.Steering)...)
		expected = append(expected, "delete element inet pointsman masquerade4 '{ udp . 192.0.2.10 . 30080 }'")
		require.Equal(t, expected, verbs(ops))
		holds(t, c, want)

		// Neither chain is touched for the cluster's networks.
		want.ClusterCIDRs = nil
		ops, err = c.Apply(want)
		require.NoError(t, err)
		require.NotEmpty(t, ops)
		for _, o := range ops {
			require.Equal(t, "postrouting", o.Chain, o)
		}
		holds(t, c, want)

		want.Steering = nil
		ops, err = c.Apply(want)
		require.NoError(t, err)
		require.Equal(t, []string{"flush chain inet pointsman steer_in", "flush chain inet pointsman steer_out",
			"delete chain inet pointsman steer_in", "delete chain inet pointsman steer_out"}, verbs(ops))
		holds(t, c, want)
		require.ErrorIs(t, c.Commit(ops), os.ErrNotExist, "the chains are gone")
		require.ErrorIs(t, c.Commit([]Op{{Verb: AddRule, Chain: "steer_in", Rule: full().steeringRules()[0]}}), os.ErrNotExist)
		holds(t, c, want)
	})
	t.Run("all or nothing", func(t *testing.T) {
		c := open(t)
		_, err := c.Apply(full())
		require.NoError(t, err)
		err = c.Commit([]Op{
			{Verb: AddElement, Set: "masquerade4", Element: tcp("192.0.2.11", 1)},
			{Verb: DelElement, Set: "masquerade4", Element: tcp("192.0.2.12", 1)},
			{Verb: AddElement, Set: "masquerade6", Element: tcp("2001:db8::1", 1)},
		})
		require.ErrorIs(t, err, os.ErrNotExist)
		holds(t, c, full())
		require.NoError(t, c.Commit(nil))
		holds(t, c, full())
	})
	t.Run("adding what is there", func(t *testing.T) {
		c := open(t)
		_, err := c.Apply(full())
		require.NoError(t, err)
		require.NoError(t, c.Commit([]Op{{Verb: AddElement, Set: "masquerade4", Element: tcp("192.0.2.10", 30080)}}))
		holds(t, c, full())
	})
	t.Run("bad wishes", func(t *testing.T) {
		c := open(t)
		for _, bad := range []Ruleset{
			{Virtual: map[Endpoint]Masquerade{tcp("::ffff:1.2.3.4", 1): Always}},
			{Virtual: map[Endpoint]Masquerade{tcp("fe80::1%eth0", 1): Always}},
			{Virtual: map[Endpoint]Masquerade{tcp("1.2.3.4", 1): 7}},
			{Virtual: map[Endpoint]Masquerade{{}: Always}},
			{Hairpin: map[netip.Addr]struct{}{{}: {}}},
			{ClusterCIDRs: []netip.Prefix{{}}},
			{Steering: []Steer{{Endpoint: tcp("192.0.2.10", 1)}}},
		} {
			_, err := c.Apply(bad)
			require.Error(t, err)
		}
	})
	t.Run("any to any", func(t *testing.T) {
		c := open(t)
		rapid.Check(t, func(r *rapid.T) {
			want := anyRuleset().Draw(r, "ruleset")
			_, err := c.Apply(want)
			require.NoError(r, err)
			holds(r, c, want)
		})
	})
}

// anyRuleset draws from few addresses, so that two draws have much in common.
func anyRuleset() *rapid.Generator[Ruleset] {
	addrs := []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("10.96.0.1"), addr("2001:db8::1"), addr("fd00::1")}
	endpoint := rapid.Custom(func(r *rapid.T) Endpoint {
		return Endpoint{
			rapid.SampledFrom([]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP}).Draw(r, "protocol"),
			rapid.SampledFrom(addrs).Draw(r, "address"), rapid.SampledFrom([]uint16{1, 80, 65535}).Draw(r, "port"),
		}
	})
	class := rapid.SampledFrom([]Masquerade{Always, ClusterIP})
	prefix := rapid.Custom(func(r *rapid.T) netip.Prefix {
		a := rapid.SampledFrom(addrs).Draw(r, "network")
		return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(r, "bits"))
	})
	steer := rapid.Custom(func(r *rapid.T) Steer {
		s := Steer{Endpoint: endpoint.Draw(r, "endpoint"), Mark: rapid.Uint32Range(1, 1<<32-1).Draw(r, "mark")}
		if rapid.Bool().Draw(r, "some clients") {
			s.Source = prefix.
				Filter(func(p netip.Prefix) bool { return p.Addr().Is4() == s.Addr.Is4() }).Draw(r, "clients")
		}
		return s
	})
	return rapid.Custom(func(r *rapid.T) Ruleset {
		return Ruleset{
			Steering:     rapid.SliceOfN(steer, 0, 4).Draw(r, "steering"),
			Virtual:      rapid.MapOfN(endpoint, class, 0, 12).Draw(r, "virtual"),
			Hairpin:      rapid.MapOfN(rapid.SampledFrom(addrs), rapid.Just(struct{}{}), 0, 5).Draw(r, "hairpin"),
			ClusterCIDRs: rapid.SliceOfN(prefix, 0, 3).Draw(r, "networks"),
		}
	})
}
