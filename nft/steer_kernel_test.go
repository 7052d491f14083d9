package nft

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	toCandidate = 0x70000001 // a mark whose virtual server has the candidate
	toBackend   = 0x70000002
)

// newSteeredWorld has a virtual server for each of the marks, of both families, and everything masqueraded that has to be.
func newSteeredWorld(t *testing.T) (*world, Ruleset) {
	w := newWorld(t)
	sh(t, fmt.Sprintf(`ipvsadm -R <<'END'
-A -f %[1]d -s rr
-a -f %[1]d -r 10.244.1.7:8080 -m
-A -f %[1]d -6 -s rr
-a -f %[1]d -6 -r [fd00:244::7]:8080 -m
-A -f %[2]d -s rr
-a -f %[2]d -r 10.244.1.5:8080 -m
END
`, toCandidate, toBackend))
	rules := Ruleset{
		Virtual: map[Endpoint]Masquerade{}, Hairpin: map[netip.Addr]struct{}{},
		ClusterCIDRs: []netip.Prefix{cidr("10.244.0.0/16"), cidr("fd00:244::/48")},
	}
	for _, v := range steeredAddresses {
		for _, to := range []string{v.v4, v.v6} {
			rules.Virtual[endpointOf(v.network, to)] = v.class
		}
	}
	for _, pod := range []string{"backend", "candidate"} {
		for _, a := range worldAddrs[pod] {
			rules.Hairpin[a] = struct{}{}
		}
	}
	return w, rules
}

var steeredAddresses = []struct {
	network, v4, v6 string
	class           Masquerade
}{
	{"tcp", "192.0.2.1:30080", "[2001:db8::1]:30080", Always}, {"udp", "192.0.2.1:30080", "[2001:db8::1]:30080", Always},
	{"tcp", "10.96.0.10:80", "[fd00:96::10]:80", ClusterIP}, {"udp", "10.96.0.10:80", "[fd00:96::10]:80", ClusterIP},
}

var allClients = []string{"outside", "pod", "node", "backend", "candidate"}

func endpointOf(network, to string) Endpoint {
	at := netip.MustParseAddrPort(to)
	if network == "udp" {
		return Endpoint{unix.IPPROTO_UDP, at.Addr(), at.Port()}
	}
	return Endpoint{unix.IPPROTO_TCP, at.Addr(), at.Port()}
}

// steerAll steers every address of steeredAddresses for every client.
func steerAll(mark uint32) (out []Steer) {
	for _, v := range steeredAddresses {
		for _, to := range []string{v.v4, v.v6} {
			out = append(out, Steer{Endpoint: endpointOf(v.network, to), Mark: mark})
		}
	}
	return out
}

func (w *world) apply(t *testing.T, rules Ruleset) {
	_, err := w.table.Apply(rules)
	require.NoError(t, err)
}

// New connections go where the mark's virtual server sends them, translated and masqueraded as those of the address;
// those that are there stay, at the beginning of the steering and at its end.
func TestKernelSteerTraffic(t *testing.T) {
	w, rules := newSteeredWorld(t)
	type held struct {
		client
		who, source, name string
	}
	var all []held
	round := func(who string) {
		for _, v := range steeredAddresses {
			for i, to := range []string{v.v4, v.v6} {
				for _, from := range allClients {
					source := [2]string{"10.244.1.1", "fd00:244::1"}[i]
					if v.class == ClusterIP && (from == "pod" || from == "backend" || from == "candidate") && from != who {
						source = worldAddrs[from][i].String()
					}
					name := fmt.Sprint(who, ": from ", from, " to ", v.network, " ", to)
					c, err := w.dial(from, v.network, to, nil)
					require.NoError(t, err, name)
					t.Cleanup(func() { _ = c.c.Close() })
					all = append(all, held{c, who, source, name})
				}
			}
		}
		for _, h := range all {
			who, source := h.ask()
			require.Equal(t, []string{h.who, h.source}, []string{who, source}, h.name)
		}
	}
	w.apply(t, rules)
	round("backend")
	steered := rules.Clone()
	steered.Steering = steerAll(toCandidate)
	w.apply(t, steered)
	round("candidate")
	w.apply(t, rules)
	round("backend")
}

// Clients of the Source only, and the first rule that matches decides.
func TestKernelSteerSource(t *testing.T) {
	w, rules := newSteeredWorld(t)
	steer := func(source string, mark uint32) Steer {
		s := Steer{Endpoint: tcp("192.0.2.1", 30080), Mark: mark}
		if source != "" {
			s.Source = cidr(source)
		}
		return s
	}
	six := func(source string) []Steer {
		return []Steer{{tcp("2001:db8::1", 30080), cidr(source), toCandidate}}
	}
	for name, c := range map[string]struct {
		steering  []Steer
		ipv6      bool
		candidate []string // the clients that get there
	}{
		"one client":                 {[]Steer{steer("192.0.2.100/32", toCandidate)}, false, []string{"outside"}},
		"the node":                   {[]Steer{steer("192.0.2.1/32", toCandidate)}, false, []string{"node"}},
		"not whole bytes":            {[]Steer{steer("192.0.2.96/29", toCandidate)}, false, []string{"outside"}},
		"pods":                       {[]Steer{steer("10.244.0.0/16", toCandidate)}, false, []string{"pod", "backend", "candidate"}},
		"the first decides":          {[]Steer{steer("192.0.2.100/32", toCandidate), steer("", toBackend)}, false, []string{"outside"}},
		"the first decides, reverse": {[]Steer{steer("", toBackend), steer("192.0.2.100/32", toCandidate)}, false, nil},
		"another port":               {[]Steer{{tcp("192.0.2.1", 30081), netip.Prefix{}, toCandidate}}, false, nil},
		"another protocol":           {[]Steer{{udp("192.0.2.1", 30080), netip.Prefix{}, toCandidate}}, false, nil},
		"IPv6, one client":           {six("2001:db8::100/128"), true, []string{"outside"}},
		"IPv6, not whole bytes":      {six("fd00:244::4/126"), true, []string{"pod", "backend", "candidate"}},
	} {
		t.Run(name, func(t *testing.T) {
			next := rules.Clone()
			next.Steering = c.steering
			w.apply(t, next)
			to := "192.0.2.1:30080"
			if c.ipv6 {
				to = "[2001:db8::1]:30080"
			}
			var got []string
			for _, from := range allClients {
				who, _ := w.askOnce(from, "tcp", to)
				if who != "backend" {
					require.Equal(t, "candidate", who)
					got = append(got, from)
				}
			}
			require.Equal(t, c.candidate, got)
		})
	}
}

// Marks that others have put on the packets before are overwritten.
func TestKernelSteerOverAMark(t *testing.T) {
	w, rules := newSteeredWorld(t)
	sh(t, "nft 'add table ip other; add chain ip other c { type filter hook prerouting priority -150; }; add rule ip other c meta mark set 0x4000'")
	rules.Steering = steerAll(toCandidate)
	w.apply(t, rules)
	who, _ := w.askOnce("outside", "tcp", "192.0.2.1:30080")
	require.Equal(t, "candidate", who)
	c, err := w.dial("node", "tcp", "10.96.0.10:80", func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, 0x4000) })
		return err
	})
	require.NoError(t, err)
	defer func() { _ = c.c.Close() }()
	who, _ = c.ask()
	require.Equal(t, "candidate", who)
}

// However often the rules change, no packet is without one that steers it: the address's own virtual server gets nobody.
func TestKernelSteerChangesAtOnce(t *testing.T) {
	w, rules := newSteeredWorld(t)
	rules.Steering = steerAll(toCandidate)
	w.apply(t, rules)
	var stop atomic.Bool
	var asked atomic.Int64
	var clients sync.WaitGroup
	for _, from := range []string{"outside", "pod", "node"} {
		clients.Go(func() {
			for n := 0; !stop.Load(); n++ {
				v := steeredAddresses[n%len(steeredAddresses)]
				if who, _ := w.askOnce(from, v.network, v.v4); who != "candidate" {
					t.Errorf("from %s to %s %s: %s", from, v.network, v.v4, who)
					return
				}
				asked.Add(1)
			}
		})
	}
	for n := 0; n < 100 || asked.Load() < 300 && !t.Failed(); n++ {
		next := rules.Clone()
		if n%2 == 1 {
			next.Steering = append([]Steer{{tcp("192.0.2.99", 1), netip.Prefix{}, 5}}, next.Steering...)
		}
		if n%3 == 1 {
			next.ClusterCIDRs = next.ClusterCIDRs[:1]
		}
		w.apply(t, next)
	}
	stop.Store(true)
	clients.Wait()
	t.Log(asked.Load(), "questions")
}

// Commit waits for packets under way when it has changed the steering, and only then; and not before it has.
func TestKernelCommitAwaitsPackets(t *testing.T) {
	c := open(t)
	waits := 0
	c.await = func() {
		waits++
		// The lock is not held, or this would hang.
		_, state := read(t, c)
		require.True(t, state.Intact, state.Why)
	}
	rest := full()
	rest.Steering = nil
	for _, step := range []struct {
		want  Ruleset
		waits int
	}{{rest, 1}, {full(), 2}, {full(), 2}, {many(3), 3}, {rest, 3}} {
		_, err := c.Apply(step.want)
		require.NoError(t, err)
		require.Equal(t, step.waits, waits)
	}
}
