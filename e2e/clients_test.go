package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// rounds switches to and fro under load and gives back what was done.
func (w *world) rounds(n int) (began time.Time, done []turn) {
	w.t.Helper()
	began = time.Now()
	for i := range n {
		old, next := []string{"v1", "v2"}[i%2], []string{"v2", "v1"}[i%2]
		done = append(done, w.turn(old, next))
		time.Sleep(200 * time.Millisecond)
	}
	return began, done
}

// A client with session affinity keeps its pod, and goes with a switch like any other: the affinity that it
// had to the old colour does not hold it there.
func TestKernelSwitchWithAffinity(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 4, Colours: []lab.Colour{{Name: "v1", Backends: 3}, {Name: "v2", Backends: 3}}}, lab.Manifests{Affinity: true})
	w.start("v1")
	held := w.open(4)
	runs := map[string]*lab.Run{}
	for i, a := range w.ClientAddrs {
		load := lab.Load{From: w.Client, Target: w.vip, Local: []netip.Addr{a}, Rate: 15, Clients: 2}
		if i%2 == 1 {
			load.Ports, load.Ending = ports(5000, 4), lab.Aborts
		}
		runs[a.String()] = w.Start(load)
	}
	for _, run := range runs {
		require.NoError(t, run.Await(5, patience))
	}
	began, done := w.rounds(10)
	time.Sleep(time.Second)
	rest := time.Now()
	time.Sleep(2 * time.Second)
	w.intact("v1", held)
	for client, run := range runs {
		report := run.Stop()
		t.Logf("%s: %v", client, report)
		healthy(t, report)
		w.oneInstantEach(report, began, done)
		// A port that was used before may lead elsewhere than a new one: TestKernelSwitchAffinityOfAPortUsedAgain.
		before, keeps := map[uint16]bool{}, map[uint16]lab.Report{}
		for _, c := range report.Until(rest) {
			before[c.Source.Port()] = true
		}
		for _, c := range report.Since(rest) {
			port := c.Source.Port()
			if !before[port] {
				port = 0
			}
			keeps[port] = append(keeps[port], c)
		}
		for port, connections := range keeps {
			require.Len(t, connections.Backends(), 1, "%s keeps its pod, port %d:\n%s", client, port, connections.Lines())
		}
	}
}

// A port that is used again while IPVS has its entry (120 s after an end, 10 s after a reset) goes where that entry
// leads: under an affinity it is not scheduled anew (is_new_conn_expected of net/netfilter/ipvs/ip_vs_core.c), unless its real
// server is at weight 0. So a client that used a port under v1, not under v2, and again under v1 has one pod by that port and
// may have another by a new one. The colour is right either way.
func TestKernelSwitchAffinityOfAPortUsedAgain(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 2, Colours: []lab.Colour{{Name: "v1", Backends: 3}, {Name: "v2", Backends: 3}}}, lab.Manifests{Affinity: true})
	w.start("v1")
	by := func(client netip.Addr, port uint16, colour string) netip.Addr {
		c := lab.Load{From: w.Client, Target: w.vip, Local: []netip.Addr{client}, Ports: []uint16{port}, Ending: lab.ServerEnds}.Once()
		require.Equal(t, lab.OK, c.Class, "%v", c)
		require.Equal(t, colour, c.Colour)
		return c.Backend
	}
	ours, other := w.ClientAddrs[0], w.ClientAddrs[1]
	kept := 0
	for round := range uint16(4) {
		port := 5000 + 3*round
		before := by(ours, port, "v1")
		w.switchTo("v2")
		by(ours, port+1, "v2") // which ends the affinity to a pod of v1
		by(other, port+1, "v2")
		w.switchTo("v1")
		if round%2 == 0 { // then rr has the next one for us
			by(other, port+2, "v1")
		}
		anew := by(ours, port+2, "v1")
		if round%2 == 1 {
			by(other, port+2, "v1")
		}
		if anew != before {
			require.Equal(t, before, by(ours, port, "v1"), "an entry under an affinity was scheduled anew")
			kept++
		}
	}
	require.Positive(t, kept, "the scheduler never gave the client another pod")
}

// A scheduler that hashes finds some clients a real server that drains: they are not refused, but get another one.
func TestKernelSwitchHashing(t *testing.T) {
	for name, scheduler := range map[string]string{"sh": "{name: sh, flags: [sh-port]}", "mh": "{name: mh, flags: [mh-port]}"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, lab.Config{Clients: 4, Colours: []lab.Colour{{Name: "v1", Backends: 3}, {Name: "v2", Backends: 3}}}, lab.Manifests{Scheduler: scheduler})
			w.start("v1")
			held := w.open(12) // so that real servers of v1 stay at weight 0
			run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 100, Clients: 8})
			require.NoError(t, run.Await(5, patience))
			began, done := w.rounds(5)
			require.NoError(t, run.Await(100, patience))
			report := run.Stop()
			t.Logf("%v", report)
			healthy(t, report)
			w.oneInstantEach(report, began, done)
			w.intact("v1", held)
			table, err := w.Node().Table()
			require.NoError(t, err)
			v, _ := table.Find("TCP", w.vip)
			require.Equal(t, name, v.Scheduler)
			require.NotEmpty(t, v.Draining())
		})
	}
}

// IPv4 and IPv6 ways in switch in the same instant.
func TestKernelSwitchDualStack(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 2, DualStack: true, Colours: []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}}}, lab.Manifests{DualStack: true})
	w.start("v1")
	vip6 := netip.AddrPortFrom(w.NodeAddr6, 30080)
	w.eventually(patience, "IPv6 serves", func() error {
		if c := (lab.Load{From: w.Client, Target: vip6, Local: w.ClientAddrs6}).Once(); c.Colour != "v1" {
			return fmt.Errorf("%v", c)
		}
		return nil
	})
	six := w.Start(lab.Load{From: w.Client, Target: vip6, Local: w.ClientAddrs6, Rate: 40, Clients: 4})
	four := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 40, Clients: 4})
	node := w.Start(lab.Load{From: w.Node(), Target: vip6, Rate: 10, Clients: 2})
	require.NoError(t, six.Await(5, patience))
	began, done := w.rounds(10)
	for name, run := range map[string]*lab.Run{"IPv6": six, "IPv4": four, "IPv6 from the node": node} {
		report := run.Stop()
		t.Logf("%s: %v", name, report)
		healthy(t, report)
		w.oneInstantEach(report, began, done)
	}
}

// scheduled waits until IPVS has this many connections whose handshake is not over.
func (w *world) scheduled(n int) {
	w.t.Helper()
	w.eventually(patience, fmt.Sprintf("%d SYNs are scheduled", n), func() error {
		text, err := w.Node().Run("ipvsadm", "-Lnc")
		if err == nil && strings.Count(text, "SYN_RECV") < n {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
}

// A SYN that the old colour never saw, sent again after the switch: it goes to the new colour.
func TestKernelSwitchWithALostSYN(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 2, Colours: []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}}}, lab.Manifests{})
	w.start("v1")
	var v1 []string
	for _, b := range w.Colour("v1") {
		v1 = append(v1, b.Addr.Addr().String())
	}
	for _, pods := range w.Pods {
		_, err := pods.Feed(fmt.Sprintf(`table inet loses {
	chain in {
		type filter hook input priority 0;
		ip daddr { %s } tcp flags & (syn | ack) == syn counter drop
	}
}`, strings.Join(v1, ", ")), "nft", "-f", "-")
		require.NoError(t, err)
	}
	lost := make(chan lab.Connection, 5)
	for range cap(lost) {
		go func() {
			lost <- lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Timeout: 20 * time.Second}.Once()
		}()
	}
	w.scheduled(cap(lost))
	w.switchTo("v2")
	for range cap(lost) {
		c := <-lost
		require.Equal(t, lab.OK, c.Class, "%v", c)
		require.Equal(t, "v2", c.Colour, "%v", c)
	}
}

// A handshake that takes longer than a second, in the middle of which a switch comes: the SYN that comes again goes to the new
// colour, and the answer to the first one, which arrives before its own, leads to a reset. Without a switch it goes well. What
// tells the loads of other tests so is lab.Report.Lost.
func TestKernelSwitchOvertakesASlowHandshake(t *testing.T) {
	w := newWorld(t, lab.Config{Clients: 1, Colours: []lab.Colour{{Name: "v1", Backends: 1}, {Name: "v2", Backends: 1}}}, lab.Manifests{})
	w.start("v1")
	once := lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Timeout: time.Minute}
	require.Equal(t, "v1", once.Once().Colour) // and the neighbours know each other: to ask again would take too long
	_, err := w.Node().Run("ip", "neigh", "change", w.ClientAddrs[0].String(), "dev", "eth0", "nud", "permanent")
	require.NoError(t, err)
	_, err = w.Client.Run("ip", "neigh", "change", w.NodeAddr.String(), "dev", "eth0", "nud", "permanent")
	require.NoError(t, err)
	// SYNs come after 0, 1, 3 and 7 s.
	_, err = w.Node().Run("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "12s")
	require.NoError(t, err)
	calm := once.Once()
	require.Equal(t, lab.OK, calm.Class, "%v", calm)
	require.Greater(t, calm.Connected.Sub(calm.Start), 11*time.Second)

	for _, colour := range []string{"v2", "v1", "v2"} {
		overtaken := make(chan lab.Connection)
		go func() { overtaken <- once.Once() }()
		w.scheduled(1)
		w.switchTo(colour)
		c := <-overtaken
		require.Empty(t, lab.Report{c}.Lost().Lines())
		if c.Class == lab.Reset {
			return
		}
		t.Logf("switched after its last SYN: %v", c)
	}
	require.Fail(t, "no handshake was overtaken")
}
