package lab

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKernelLabCountsByColour(t *testing.T) {
	l := up(t, Config{Clients: 3})
	vip := balance(t, l, "tcp", map[string]int{"v1": 1})

	table, err := l.Node.Table()
	require.NoError(t, err)
	v, ok := table.Find("TCP", vip)
	require.True(t, ok)
	require.Equal(t, Addrs(l.Colour("v1")), v.Serving())
	require.Equal(t, Addrs(l.Colour("v2")), v.Draining())

	held, err := l.Hold(Held{From: l.Client, Target: vip, Count: 10, Every: 50 * time.Millisecond})
	require.NoError(t, err)
	run := l.Start(Load{From: l.Client, Target: vip, Local: l.ClientAddrs, Rate: 400})
	require.NoError(t, run.Await(100, patience))
	asked := time.Now()
	weigh(t, l, vip, map[string]int{"v2": 1})
	done := time.Now()
	require.NoError(t, run.Await(100, patience))
	require.NoError(t, held.Await(patience))
	report := run.Stop()
	t.Logf("%v in %v", report, report[len(report)-1].Ended.Sub(report[0].Start))

	require.Empty(t, report.Failed().Lines())
	require.Zero(t, report.Until(asked).ByColour()["v2"])
	require.Zero(t, report.Since(done).ByColour()["v1"])
	require.Len(t, report.Backends(), 20)
	require.NotEmpty(t, report.Mixed("v1", "v2"), "twenty edits by hand one after the other mix colours; the query has to see it")
	for _, c := range report {
		require.Contains(t, []string{"10.244.140.1", "10.244.196.1"}, c.SeenAs.String(), "masqueraded")
		require.Contains(t, l.ClientAddrs, c.Source.Addr())
	}
	for _, s := range held.Close() {
		require.True(t, s.Alive(), s)
		require.Equal(t, "v1", s.Colour)
		require.Greater(t, s.Exchanges, 2)
	}
}

// Every error class, provoked on purpose.
func TestKernelLabSeesErrors(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 1}}})
	vip := balance(t, l, "tcp", map[string]int{"v1": 1})
	only := l.Backends[0]
	try := func() Connection {
		return Load{From: l.Client, Target: vip, Timeout: 400 * time.Millisecond}.Once()
	}
	require.Equal(t, OK, try().Class)

	only.Set(Resetting)
	c := try()
	require.Equal(t, Reset, c.Class, c)
	require.Zero(t, c.Answered)

	only.Set(Paused)
	c = try()
	require.Equal(t, Timeout, c.Class, c)
	require.NotZero(t, c.Connected)
	require.Zero(t, c.Answered)

	only.Set(Answering)
	c = try()
	require.Equal(t, OK, c.Class, c)

	only.Stop()
	c = try()
	require.Equal(t, Refused, c.Class, c)
	require.Zero(t, c.Connected)
	require.NoError(t, only.Start())
	require.Equal(t, OK, try().Class)

	weigh(t, l, vip, map[string]int{"v1": 0})
	c = try()
	require.Equal(t, Refused, c.Class, "a virtual server without a usable real server: %v", c)

	closing, err := l.Pods[0].listen(netip.AddrPortFrom(only.Addr.Addr(), 81))
	require.NoError(t, err)
	go func() {
		c, err := closing.Accept()
		if err == nil {
			_ = c.Close()
		}
	}()
	_, err = l.Node.Run("ipvsadm", "-a", "-t", vip.String(), "-r", closing.Addr().String(), "-m")
	require.NoError(t, err)
	c = try()
	require.Equal(t, Other, c.Class, "closed without an answer: %v", c)
	require.NoError(t, closing.Close())

	// Nobody at all at the address: no answer to the SYN.
	_, err = l.Node.Feed("insert rule ip byhand post tcp dport 81 drop\n", "nft", "-f", "-")
	require.NoError(t, err)
	c = try()
	require.Equal(t, Timeout, c.Class, c)
	require.Zero(t, c.Connected)
}

// What can happen to a long-lived connection.
func TestKernelLabSeesCutConnections(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 2}}})
	vip := balance(t, l, "tcp", map[string]int{"v1": 1})
	hold := func() *Sessions {
		s, err := l.Hold(Held{From: l.Client, Target: vip, Count: 2, Every: 20 * time.Millisecond, Timeout: time.Second})
		require.NoError(t, err)
		require.NoError(t, s.Await(patience))
		return s
	}

	s := hold()
	l.Backends[0].Stop()
	require.Error(t, s.Await(patience), "one backend is gone")
	classes := map[Class]int{}
	for _, each := range s.Close() {
		classes[each.Class]++
	}
	require.Equal(t, 1, classes[OK], "the other is not")
	require.NoError(t, l.Backends[0].Start())

	s = hold()
	l.Backends[1].Set(Paused)
	require.ErrorContains(t, s.Await(patience), "timeout")
	l.Backends[1].Set(Answering)
	s.Close()

	// With expire_nodest_conn a connection whose real server is deleted is reset.
	s = hold()
	_, err := l.Node.Run("ipvsadm", "-d", "-t", vip.String(), "-r", l.Backends[0].Addr.String())
	require.NoError(t, err)
	require.ErrorContains(t, s.Await(patience), "reset")
	s.Abort()
}

func TestKernelLabSeesConnectionsMove(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 1}}})
	at := netip.AddrPortFrom(l.Backends[0].Addr.Addr(), 90)
	listener, err := l.Pods[0].listen(at)
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("v1 10.0.0.1 10.0.0.9\n"))
		buf := make([]byte, 100)
		n, _ := c.Read(buf)
		_, _ = c.Write(append([]byte("v2 10.0.0.2 10.0.0.9 "), buf[:n]...))
		_, _ = c.Read(buf)
	}()
	s, err := l.Hold(Held{From: l.Pods[0], Target: at, Count: 1, Every: 20 * time.Millisecond})
	require.NoError(t, err)
	require.ErrorContains(t, s.Await(patience), "moved from v1 (10.0.0.1) to v2 (10.0.0.2)")
}

// A client that uses its source port again at once meets the connection that IPVS remembers. With
// conn_reuse_mode 0 it stays on the old colour, which the report has to show; with 1 it does not.
func TestKernelLabReusesPorts(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 2}, {"v2", 2}}, Clients: 2})
	vip := balance(t, l, "tcp", map[string]int{"v1": 1})
	first := uint16(5000)
	for name, ending := range map[string]Ending{"the server ends": ServerEnds, "aborted": Aborts} {
		for _, mode := range []string{"0", "1"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				var ports []uint16 // of its own: IPVS remembers those of the run before
				for range 16 {
					ports = append(ports, first)
					first++
				}
				weigh(t, l, vip, map[string]int{"v1": 1})
				require.NoError(t, l.Node.Sysctl("net/ipv4/vs/conn_reuse_mode", mode))
				require.NoError(t, l.Node.Sysctl("net/ipv4/vs/expire_nodest_conn", mode))
				run := l.Start(Load{From: l.Client, Target: vip, Local: l.ClientAddrs, Ports: ports,
					Rate: 300, Clients: 8, Ending: ending})
				require.NoError(t, run.Await(100, patience))
				weigh(t, l, vip, map[string]int{"v2": 1})
				done := time.Now()
				require.NoError(t, run.Await(100, patience))
				report := run.Stop()
				t.Logf("%v, after: %v", report, report.Since(done))
				require.Empty(t, report.Failed().Lines())
				sources := map[netip.AddrPort]bool{}
				for _, c := range report {
					sources[c.Source] = true
				}
				require.LessOrEqual(t, len(sources), 32)
				if mode == "0" {
					require.NotZero(t, report.Since(done).ByColour()["v1"])
				} else {
					require.Zero(t, report.Since(done).ByColour()["v1"])
				}
			})
		}
	}
}

func TestKernelLabFlows(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 2}, {"v2", 2}}, UDP: true})
	vip := balance(t, l, "udp", map[string]int{"v1": 1})
	run, err := l.Flow(Flows{From: l.Client, Target: vip, Count: 8, Every: 100 * time.Millisecond, Patience: 10 * time.Second})
	require.NoError(t, err)
	time.Sleep(time.Second)
	before := time.Now()
	for _, b := range l.Colour("v2") {
		_, err := l.Node.Run("ipvsadm", "-e", "-u", vip.String(), "-r", b.Addr.String(), "-m", "-w", "1")
		require.NoError(t, err)
	}
	for _, b := range l.Colour("v1") {
		_, err := l.Node.Run("ipvsadm", "-d", "-u", vip.String(), "-r", b.Addr.String())
		require.NoError(t, err)
	}
	after := time.Now()
	time.Sleep(time.Second)
	for _, b := range l.Backends {
		b.Stop()
	}
	gone := time.Now()
	time.Sleep(500 * time.Millisecond)
	report := run.Stop()
	t.Logf("before %v; after %v; gone %v", report.Between(time.Time{}, before), report.Between(after, gone), report.Between(gone, time.Time{}))
	require.Zero(t, report.Between(time.Time{}, before).Lost())
	require.Zero(t, report.Between(time.Time{}, before).ByColour()["v2"])
	moved := report.Between(after.Add(100*time.Millisecond), gone.Add(-50*time.Millisecond))
	require.Zero(t, moved.ByColour()["v1"])
	require.NotZero(t, moved.ByColour()["v2"])
	require.LessOrEqual(t, report.Between(before, gone.Add(-50*time.Millisecond)).Lost(), 16, "one a flow, or two where the timer that drops its entry is late")
	require.NotZero(t, report.Between(gone, time.Time{}).Lost())
	require.NotZero(t, run.Refused())
}

// Clients can be anywhere: on the node, in a pod, and on IPv6.
func TestKernelLabDualStackAndPods(t *testing.T) {
	l := up(t, Config{Colours: []Colour{{"v1", 2}, {"v2", 1}, {"v3", 1}}, DualStack: true, ClientPod: true})
	vip := balance(t, l, "tcp", map[string]int{"v1": 1, "v2": 1, "v3": 1})
	require.NoError(t, l.Node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	vip6 := netip.AddrPortFrom(l.NodeAddr6, 30080)
	rules := "-A -t " + vip6.String() + " -s rr\n"
	for _, b := range l.Backends {
		rules += "-a -t " + vip6.String() + " -r " + b.Addr6.String() + " -m\n"
	}
	_, err := l.Node.Feed(rules, "ipvsadm", "-R")
	require.NoError(t, err)
	_, err = l.Node.Feed("table ip6 byhand { chain post { type nat hook postrouting priority srcnat; tcp dport 80 masquerade; }; }", "nft", "-f", "-")
	require.NoError(t, err)

	table, err := l.Node.Table()
	require.NoError(t, err)
	v6, ok := table.Find("TCP", vip6)
	require.True(t, ok)
	require.Len(t, v6.Serving(), 4)

	for name, load := range map[string]Load{
		"client": {From: l.Client, Target: vip}, "node": {From: l.Node, Target: vip},
		"pod": {From: l.Pod, Target: vip}, "client6": {From: l.Client, Target: vip6, Local: l.ClientAddrs6},
	} {
		run := l.Start(load)
		require.NoError(t, run.Await(16, patience), name)
		report := run.Stop()
		t.Log(name, report)
		require.Empty(t, report.Failed().Lines(), name)
		require.Len(t, report.ByColour(), 3, name)
	}
}

func TestKernelLabLeavesNothing(t *testing.T) {
	hosts, err := os.ReadFile("/etc/hosts")
	require.NoError(t, err)
	l := up(t, Config{Prefix: "x-"})
	_, err = New(Config{Prefix: "x-"})
	require.Error(t, err, "the namespaces are there already")
	names, err := os.ReadDir("/run/netns")
	require.NoError(t, err)
	require.Len(t, names, 4)
	require.NoError(t, l.Close())
	names, err = os.ReadDir("/run/netns")
	require.NoError(t, err)
	require.Empty(t, names)
	now, err := os.ReadFile("/etc/hosts")
	require.NoError(t, err)
	require.Equal(t, string(hosts), string(now))
}

// The watch sees what a program writes, and only that program.
func TestKernelLabSeesWrites(t *testing.T) {
	l := up(t, Config{})
	w, err := WatchWrites("ipvsadm")
	require.NoError(t, err)
	writes := func() int {
		lines, err := w.Writes()
		require.NoError(t, err)
		return len(lines)
	}
	require.Zero(t, writes())
	vip := balance(t, l, "tcp", map[string]int{"v1": 1}) // nft and sysctls too
	require.Equal(t, 21, writes())
	_, err = l.Node.Run("ipvsadm", "-Ln")
	require.NoError(t, err)
	require.Equal(t, 21, writes(), "reading is not writing")
	weigh(t, l, vip, map[string]int{"v1": 1})
	require.Equal(t, 41, writes(), "writing what is there already is")
	require.NoError(t, w.Close())
	for program, write := range map[string]func() error{
		"nft":    func() error { _, err := l.Node.Run("nft", "flush", "ruleset"); return err },
		"sysctl": func() error { _, err := l.Node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1"); return err },
		"ip":     func() error { _, err := l.Node.Run("ip", "link", "add", "x", "type", "dummy"); return err },
	} {
		w, err = WatchWrites(program)
		require.NoError(t, err)
		require.NoError(t, write())
		require.NotZero(t, writes(), program)
		require.NoError(t, w.Close())
	}
}
