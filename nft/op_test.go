package nft

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDiffIsEmptyForEqual(t *testing.T) {
	require.Empty(t, Diff(full(), full(), true))
	a := full()
	a.ClusterCIDRs = []netip.Prefix{cidr("10.244.0.0/16"), cidr("10.1.0.0/16")}
	b := a.Clone()
	b.ClusterCIDRs = []netip.Prefix{cidr("10.1.2.3/16"), cidr("10.244.0.0/16"), cidr("10.1.0.0/16")}
	require.Empty(t, Diff(a, b, true), "order, host bits and repetition say nothing")
	require.NotEmpty(t, Diff(a, a, false), "a table that is not intact is made anew")
}

func TestOpsPrintAsCommands(t *testing.T) {
	want := Ruleset{
		Virtual:      map[Endpoint]Masquerade{tcp("192.0.2.10", 30080): Always, {99, addr("fd00:96::a"), 53}: ClusterIP},
		Hairpin:      map[netip.Addr]struct{}{addr("10.244.0.5"): {}},
		ClusterCIDRs: []netip.Prefix{cidr("10.244.0.0/16"), cidr("10.245.0.0/17")},
	}
	var got string
	for _, o := range Diff(want, Ruleset{}, false) {
		got += o.String() + "\n"
	}
	golden, err := os.ReadFile("testdata/create.txt")
	require.NoError(t, err)
	require.Equal(t, string(golden), got)
}

// flushedOnce is a table that another program flushes between a reading and the transaction built upon it.
type flushedOnce struct {
	Fake
	times int
}

func (f *flushedOnce) Read() (Ruleset, State, error) {
	rules, state, err := f.Fake.Read()
	if f.times > 0 {
		f.times--
		f.Flush()
	}
	return rules, state, err
}

func TestApplyReadsAgainAfterAConflict(t *testing.T) {
	f := &flushedOnce{}
	_, err := apply(f, full())
	require.NoError(t, err)
	want := full()
	delete(want.Virtual, tcp("192.0.2.10", 30080))
	f.times = 2
	ops, err := apply(f, want)
	require.NoError(t, err)
	require.Equal(t, AddTable, ops[0].Verb)
	holds(t, &f.Fake, want)

	f.times = 100
	delete(want.Virtual, udp("192.0.2.10", 30080))
	f.Flush()
	require.NoError(t, f.Commit(Diff(full(), Ruleset{}, false)))
	f.times = 100
	_, err = apply(&neverThere{}, want)
	require.ErrorIs(t, err, unix.ENOENT, "not for ever")
}

// neverThere seems intact and never is.
type neverThere struct{ Fake }

func (*neverThere) Read() (Ruleset, State, error) {
	return full(), State{Intact: true, Present: true}, nil
}

func TestMessagesOfManyElementsStayBelowTheLimit(t *testing.T) {
	ops := Diff(many(20000), Ruleset{}, true)
	messages, err := marshal(ops)
	require.NoError(t, err)
	require.Greater(t, len(messages), 20)
	for _, m := range messages {
		require.Less(t, len(m.Data), 1<<16)
	}
}

// many is a ruleset with n elements, spread as a cluster's are.
func many(n int) Ruleset {
	r := Ruleset{Virtual: map[Endpoint]Masquerade{}, Hairpin: map[netip.Addr]struct{}{}, ClusterCIDRs: []netip.Prefix{cidr("10.244.0.0/16"), cidr("fd00:244::/48")}}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		switch i % 5 {
		case 0:
			r.Virtual[Endpoint{6, addr("192.0.2.10"), uint16(30000 + i)}] = Always
		case 1:
			r.Virtual[Endpoint{6, netip.AddrFrom4([4]byte{10, 96, hi, lo}), 80}] = ClusterIP
		case 2:
			r.Virtual[Endpoint{17, netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x96, 14: hi, 15: lo}), 53}] = ClusterIP
		case 3:
			r.Hairpin[netip.AddrFrom4([4]byte{10, 244, hi, lo})] = struct{}{}
		case 4:
			r.Virtual[Endpoint{17, addr("2001:db8::10"), uint16(30000 + i)}] = Always
		}
	}
	return r
}

func BenchmarkDiff5000(b *testing.B) {
	want, have := many(5000), many(5000)
	want.Virtual[tcp("192.0.2.99", 1)] = Always
	for b.Loop() {
		if len(Diff(want, have, true)) != 1 {
			b.Fatal("want one op")
		}
	}
}
