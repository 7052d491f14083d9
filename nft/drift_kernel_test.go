package nft

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sh runs a command in the thread's namespace.
func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

// What another program may do to the table, by the hands of the nft program.
func TestKernelDrift(t *testing.T) {
	const ours = "inet pointsman"
	handle := func(t *testing.T, of string) string {
		for line := range strings.Lines(sh(t, "nft -a list table "+ours)) {
			if _, h, ok := strings.Cut(line, "# handle "); ok && strings.Contains(line, of) {
				return strings.TrimSpace(h)
			}
		}
		t.Fatal("no rule with ", of)
		return ""
	}
	for name, drift := range map[string]struct {
		do   func(t *testing.T) string
		keep bool // the table is still one that Apply could have made, of another Ruleset
	}{
		"ruleset flushed": {do: func(*testing.T) string { return "nft flush ruleset" }},
		"table deleted":   {do: func(*testing.T) string { return "nft delete table " + ours }},
		"rules flushed":   {do: func(*testing.T) string { return "nft flush table " + ours }},
		"rule deleted": {do: func(t *testing.T) string {
			return "nft delete rule " + ours + " postrouting handle " + handle(t, "@hairpin4")
		}},
		"rule added":                   {do: func(*testing.T) string { return "nft add rule " + ours + " postrouting ip daddr 1.2.3.4 return" }},
		"rule of a kind unknown to us": {do: func(*testing.T) string { return "nft insert rule " + ours + " postrouting limit rate 1/second accept" }},
		"verdict edited": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " postrouting handle " + handle(t, "@hairpin4") + " 'ip saddr . ip daddr @hairpin4 fib saddr type != local masquerade random'"
		}},
		"condition taken off": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " postrouting handle " + handle(t, "@hairpin4") + " 'ip saddr . ip daddr @hairpin4 masquerade fully-random'"
		}},
		"direction edited": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " postrouting handle " + handle(t, "@masquerade4") +
				" 'meta nfproto ipv4 meta l4proto { tcp, udp, sctp } meta l4proto . ct reply ip daddr . ct original proto-dst @masquerade4 masquerade fully-random'"
		}},
		"protocols edited": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " postrouting handle " + handle(t, "@masquerade4") +
				" 'meta nfproto ipv4 meta l4proto { tcp, sctp } meta l4proto . ct original ip daddr . ct original proto-dst @masquerade4 masquerade fully-random'"
		}},
		"network edited": {keep: true, do: func(t *testing.T) string {
			return "nft replace rule " + ours + " postrouting handle " + handle(t, "ip6 saddr != fd00:244::/48") +
				" 'meta l4proto { tcp, udp, sctp } meta l4proto . ct original ip6 daddr . ct original proto-dst @clusterip6 ip6 saddr != fd00:299::/48 masquerade fully-random'"
		}},
		"steering rule deleted": {do: func(t *testing.T) string {
			return "nft delete rule " + ours + " steer_in handle " + handle(t, "203.0.113.7")
		}},
		"steering rule deleted from both chains": {keep: true, do: func(t *testing.T) string {
			return "nft -a list table " + ours + " | awk '/^\tchain/ { chain = $2 } /203.0.113.7/ { print chain, $NF }'" +
				" | while read -r c h; do nft delete rule " + ours + " $c handle $h; done"
		}},
		"steering rule with another mark": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " steer_in handle " + handle(t, "203.0.113.7") +
				" ip saddr 203.0.113.7 ip daddr 10.96.0.10 udp dport 53 meta mark set 2 accept"
		}},
		"steering rule with another verdict": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " steer_in handle " + handle(t, "203.0.113.7") +
				" ip saddr 203.0.113.7 ip daddr 10.96.0.10 udp dport 53 meta mark set 1 return"
		}},
		"steering rule for other clients": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " steer_in handle " + handle(t, "203.0.113.7") +
				" ip saddr 203.0.113.8 ip daddr 10.96.0.10 udp dport 53 meta mark set 1 accept"
		}},
		"steering rule with a bit of the mark": {do: func(t *testing.T) string {
			return "nft replace rule " + ours + " steer_in handle " + handle(t, "203.0.113.7") +
				" ip saddr 203.0.113.7 ip daddr 10.96.0.10 udp dport 53 meta mark set meta mark or 1 accept"
		}},
		"steering rule added": {do: func(*testing.T) string {
			return "nft add rule " + ours + " steer_out ip daddr 10.96.0.10 udp dport 53 meta mark set 1 accept"
		}},
		"counter added to the steering": {do: func(*testing.T) string { return "nft insert rule " + ours + " steer_in counter" }},
		"steering chain flushed":        {do: func(*testing.T) string { return "nft flush chain " + ours + " steer_out" }},
		"both steering chains flushed": {do: func(*testing.T) string {
			return "nft flush chain " + ours + " steer_in; nft flush chain " + ours + " steer_out"
		}},
		"steering chain deleted": {do: func(*testing.T) string {
			return "nft flush chain " + ours + " steer_in; nft delete chain " + ours + " steer_in"
		}},
		"steering chain at another priority": {do: func(*testing.T) string {
			return "nft list chain " + ours + " steer_in | sed 's/priority 90/priority 99/' >/tmp/chain.$$; nft 'flush chain " + ours +
				" steer_in; delete chain " + ours + " steer_in'; nft -f /tmp/chain.$$; rm /tmp/chain.$$"
		}},
		"another set":   {do: func(*testing.T) string { return "nft add set " + ours + " other '{ type ipv4_addr; }'" }},
		"another chain": {do: func(*testing.T) string { return "nft add chain " + ours + " other" }},
		"policy drop":   {do: func(*testing.T) string { return "nft chain " + ours + " postrouting '{ policy drop; }'" }},
		"dormant":       {do: func(*testing.T) string { return "nft add table " + ours + " '{ flags dormant; }'" }},
		"element removed": {keep: true, do: func(*testing.T) string {
			return "nft delete element " + ours + " masquerade4 '{ tcp . 192.0.2.10 . 30080 }'"
		}},
		"element added": {keep: true, do: func(*testing.T) string {
			return "nft add element " + ours + " masquerade6 '{ udp . 2001:db8::66 . 1 }'"
		}},
		"set flushed":     {keep: true, do: func(*testing.T) string { return "nft flush set " + ours + " hairpin6" }},
		"foreign element": {do: func(*testing.T) string { return "nft add element " + ours + " hairpin4 '{ 10.0.0.1 . 10.0.0.2 }'" }},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			_, err := c.Apply(full())
			require.NoError(t, err)
			_, before := read(t, c)
			sh(t, drift.do(t))
			have, state := read(t, c)
			require.Greater(t, state.Generation, before.Generation, "the generation tells that there is something to read")
			require.Equal(t, drift.keep, state.Intact, state.Why)
			if drift.keep {
				require.False(t, full().Equal(have))
			}
			ops, err := c.Apply(full())
			require.NoError(t, err)
			require.NotEmpty(t, ops)
			if drift.keep {
				require.NotEqual(t, AddTable, ops[0].Verb, "just what differs")
			} else {
				require.NotEmpty(t, state.Why)
				require.Equal(t, AddTable, ops[0].Verb)
			}
			holds(t, c, full())
		})
	}
}

// What an operator saves and loads again is intact, though another program wrote it.
func TestKernelSavedAndLoaded(t *testing.T) {
	c := open(t)
	_, err := c.Apply(full())
	require.NoError(t, err)
	sh(t, "f=$(mktemp); nft list ruleset >$f && nft flush ruleset && nft -f $f; rm $f")
	holds(t, c, full())
}

// The text of every op, given to the nft program, makes the very table that the op makes.
func TestKernelCommandsAreWhatTheySay(t *testing.T) {
	c := open(t)
	run := func(ops []Op) {
		for _, o := range ops {
			sh(t, o.String())
		}
	}
	run(Diff(full(), Ruleset{}, false))
	holds(t, c, full())
	want := full()
	want.Hairpin[addr("fd00:244::7")] = struct{}{}
	want.Virtual[Endpoint{99, addr("10.96.0.10"), 80}] = ClusterIP
	delete(want.Virtual, tcp("2001:db8::10", 30080))
	want.ClusterCIDRs = want.ClusterCIDRs[1:]
	want.Steering = want.Steering[1:]
	run(Diff(want, full(), true))
	holds(t, c, want)
	less := want.Clone()
	less.Steering = nil
	run(Diff(less, want, true))
	holds(t, c, less)
	run(Diff(want, less, true))
	holds(t, c, want)
}

func TestKernelForeignTablesAreLeftAlone(t *testing.T) {
	c := open(t)
	sh(t, `nft -f - <<'END'
table inet firewall {
	counter c { packets 0 bytes 0 }
	set masquerade4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
	chain postrouting { type nat hook postrouting priority srcnat; policy accept; ip saddr @masquerade4 masquerade; }
	chain in { type filter hook input priority filter; policy accept; tcp dport 22 counter name c accept; }
}
table ip pointsman {
	chain postrouting { type nat hook postrouting priority srcnat; }
}
table ip6 nat {
	map m { type ipv6_addr : ipv6_addr; elements = { ::1 : ::2 }; }
}
END`)
	before := sh(t, "nft -a list ruleset")
	_, err := c.Apply(full())
	require.NoError(t, err)
	want := full()
	want.ClusterCIDRs = nil
	_, err = c.Apply(want)
	require.NoError(t, err)
	holds(t, c, want)
	require.NoError(t, c.Delete())
	require.Equal(t, before, sh(t, "nft -a list ruleset"))
}

func TestKernel5000Elements(t *testing.T) {
	c := open(t)
	want := many(5000)
	began := time.Now()
	_, err := c.Apply(want)
	require.NoError(t, err)
	made := time.Now()
	holds(t, c, want)
	t.Logf("made in %v, read twice in %v", made.Sub(began), time.Since(made))
	less := many(2500)
	_, err = c.Apply(less)
	require.NoError(t, err)
	holds(t, c, less)
}

// Others commit all the time, and one of them deletes our table now and then.
func TestKernelConcurrentCommits(t *testing.T) {
	c := open(t)
	var others sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		foreign, err := Open()
		require.NoError(t, err)
		defer func() { _ = foreign.Close() }()
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				add, err := message(unix.NFT_MSG_NEWTABLE, netlink.Create, []netlink.Attribute{str(unix.NFTA_TABLE_NAME, "foreign"+string(rune('a'+i)))})
				if err == nil {
					err = foreign.batch([]netlink.Message{add})
				}
				if err == nil && i == 0 && n%7 == 0 {
					err = foreign.Delete()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 60 {
		want := full()
		if i%2 == 0 {
			delete(want.Virtual, tcp("192.0.2.10", 30080))
		}
		_, err := c.Apply(want)
		require.NoError(t, err)
	}
	close(stop)
	others.Wait()
	_, err := c.Apply(full())
	require.NoError(t, err)
	holds(t, c, full())
}

// One socket, many goroutines: answers must not be mixed up.
func TestKernelConcurrentUse(t *testing.T) {
	c := open(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 10 {
				want := full()
				if i%2 == 0 {
					want.Hairpin = nil
				}
				if _, err := c.Apply(want); err != nil {
					t.Error(err)
				}
				if _, err := c.Generation(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	_, err := c.Apply(full())
	require.NoError(t, err)
	holds(t, c, full())
}

func BenchmarkRead5000(b *testing.B) {
	c := open(b)
	_, err := c.Apply(many(5000))
	require.NoError(b, err)
	for b.Loop() {
		_, _, err := c.Read()
		require.NoError(b, err)
	}
}

func BenchmarkGeneration(b *testing.B) {
	c := open(b)
	for b.Loop() {
		_, err := c.Generation()
		require.NoError(b, err)
	}
}
