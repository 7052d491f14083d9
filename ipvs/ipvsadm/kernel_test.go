package ipvsadm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
	"github.com/pointsman/pointsman/ipvs/ipvsadm"
)

func program(t require.TestingT, args ...string) string {
	var stderr bytes.Buffer
	cmd := exec.Command("ipvsadm", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "ipvsadm %v: %s", args, &stderr)
	return string(out)
}

// ours is what List makes of the kernel's table.
func ours(t require.TestingT, c *ipvs.Conn, opts ipvsadm.Options) string {
	ctx := context.Background()
	info, err := c.Info(ctx)
	require.NoError(t, err)
	table, err := c.Read(ctx)
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, ipvsadm.List(&b, table, info, opts))
	return b.String()
}

// flags are the options of a listing as arguments.
func flags(opts ipvsadm.Options) []string {
	args := []string{"-L"}
	for _, f := range []struct {
		set  bool
		flag string
	}{
		{opts.Numeric, "-n"}, {opts.Stats, "--stats"}, {opts.Rate, "--rate"}, {opts.Thresholds, "--thresholds"},
		{opts.PersistentConn, "--persistent-conn"}, {opts.TunInfo, "--tun-info"}, {opts.Exact, "--exact"}, {opts.NoSort, "--nosort"},
	} {
		if f.set {
			args = append(args, f.flag)
		}
	}
	if opts.Service != nil {
		args = append(args, ipvs.Op{Verb: ipvs.DelService, Service: ipvs.Service{Key: *opts.Service}}.Command()[2:]...)
	}
	return args
}

func open(t testing.TB) *ipvs.Conn {
	t.Helper()
	list := []string{"-a", "ip_vs_pe_sip"}
	for _, scheduler := range gen.Schedulers {
		list = append(list, "ip_vs_"+scheduler)
	}
	out, err := exec.Command("modprobe", list...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c, err := ipvs.Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func clearTable(t require.TestingT, c *ipvs.Conn) {
	list, err := c.Services(context.Background())
	require.NoError(t, err)
	var ops []ipvs.Op
	for _, s := range list {
		ops = append(ops, ipvs.Op{Verb: ipvs.DelService, Service: s.Service})
	}
	require.NoError(t, c.Apply(context.Background(), ops))
}

// The bytes must be the real program's, for any table and any flags.
func TestKernelListing(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	if os.Getenv("POINTSMAN_VM") != "" { // the guest's files are its own
		name := strings.Repeat("long-", 11) + "name.example.org"
		require.NoError(t, os.WriteFile("/etc/hosts", []byte(`# comment
127.0.0.1	localhost
192.0.2.1 mast01.example.org mast01	# with an alias
192.0.2.2 `+name+`
192.0.2.3 mast03 mast03.example.org
192.0.2.3 other
2001:db8::1 mast01-v6
2001:db8::2 `+name+`
`), 0o644))
	}
	rapid.Check(t, func(t *rapid.T) {
		clearTable(t, c)
		limits := gen.Limits{Engines: []string{"sip"}, NearKeys: rapid.Bool().Draw(t, "near")}
		ops := gen.Table(t, 12, 8, limits)
		require.NoError(t, c.Apply(context.Background(), ops))
		for range 6 {
			bit := func(name string) bool { return rapid.Bool().Draw(t, name) }
			rarely := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
			opts := ipvsadm.Options{
				Numeric: !rarely("names"), Stats: rarely("stats"), Rate: rarely("rate"),
				Thresholds: rarely("thresholds"), PersistentConn: bit("persistent"),
				TunInfo: bit("tunnel"), Exact: bit("exact"), NoSort: bit("no sort"),
			}
			if len(ops) > 0 && rapid.IntRange(0, 2).Draw(t, "one") == 0 {
				key := ops[rapid.IntRange(0, len(ops)-1).Draw(t, "which")].Service.Key
				opts.Service = &key
			}
			theirs, mine := program(t, flags(opts)...), ours(t, c, opts)
			// 7.x may rearrange its hash table between two readings, and with it the order.
			for try := 0; try < 3 && opts.NoSort && theirs != mine; try++ {
				theirs, mine = program(t, flags(opts)...), ours(t, c, opts)
			}
			require.Equal(t, theirs, mine, "%v", flags(opts))
		}
	})
	t.Run("nothing", func(t *testing.T) {
		kerneltest.Namespace(t)
		c := open(t)
		assert.Equal(t, program(t, "-L"), ours(t, c, ipvsadm.Options{}))
		assert.Equal(t, program(t, "-Ln", "--stats"), ours(t, c, ipvsadm.Options{Numeric: true, Stats: true}))
	})
}

// Many virtual servers far apart, so that the sort's overflow shows.
func TestKernelListingOrder(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	rapid.Check(t, func(t *rapid.T) {
		clearTable(t, c)
		ops := gen.Table(t, 60, 1, gen.Limits{Schedulers: []string{"rr"}})
		key := gen.Key(t, gen.Limits{})
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: gen.Service(t, key, gen.Limits{})})
		for range 60 {
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: ipvs.Service{Key: key}, Real: gen.Real(t, key, gen.Limits{})})
		}
		_ = c.Apply(context.Background(), ops) // a key may have been drawn twice
		require.Equal(t, program(t, "-L", "-n", "--thresholds"), ours(t, c, ipvsadm.Options{Numeric: true, Thresholds: true}))
	})
}

// With counters, rates and connections of real traffic. They change between two readings, so a few
// tries have to agree once.
func TestKernelListingTraffic(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	run := func(args string) { program(t, strings.Fields(args)...) }
	run("-A -t 127.0.0.1:30080 -s rr -p 60")
	run("-a -t 127.0.0.1:30080 -r 127.0.0.1:8080 -m")
	run("-A -t [::1]:30080 -s wrr")
	run("-a -t [::1]:30080 -r [::1]:8080 -m")
	held := talk(t, "127.0.0.1:8080", "127.0.0.1:30080")
	held = append(held, talk(t, "[::1]:8080", "[::1]:30080")...)
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	time.Sleep(5 * time.Second) // two runs of the kernel's estimator

	agree := func(what string, theirs, ours func() string) {
		t.Helper()
		var a, b string
		for range 10 {
			if a, b = theirs(), ours(); a == b {
				t.Logf("%s:\n%s", what, b)
				return
			}
		}
		assert.Equal(t, a, b, what)
	}
	for _, opts := range []ipvsadm.Options{
		{Numeric: true}, {Numeric: true, Stats: true}, {Numeric: true, Rate: true}, {Stats: true, Exact: true},
		{Rate: true, Exact: true}, {Numeric: true, PersistentConn: true}, {Thresholds: true},
	} {
		agree(fmt.Sprint(flags(opts)), func() string { return program(t, flags(opts)...) }, func() string { return ours(t, c, opts) })
	}
	for _, opts := range []ipvsadm.Options{{}, {Numeric: true}, {Numeric: true, PersistentConn: true}} {
		args := append(flags(opts), "-c")
		agree(fmt.Sprint(args), func() string { return program(t, args...) }, func() string {
			proc, err := os.Open("/proc/thread-self/net/ip_vs_conn")
			require.NoError(t, err)
			defer func() { _ = proc.Close() }()
			var b strings.Builder
			require.NoError(t, ipvsadm.ListConnections(&b, proc, opts))
			return b.String()
		})
	}
	assert.Contains(t, program(t, "-Lnc"), "ESTABLISHED")
	assert.NotContains(t, program(t, "-Ln", "--stats"), "127.0.0.1:30080                     0")
}

func TestKernelHeaders(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	ctx := context.Background()
	program(t, "--set", "901", "121", "301")
	timeouts, err := c.Timeouts(ctx)
	require.NoError(t, err)
	assert.Equal(t, program(t, "-L", "--timeout"), text(t, func(w io.Writer) error { return ipvsadm.ListTimeouts(w, timeouts) }))

	daemons := func() string {
		list, err := c.Daemons(ctx)
		require.NoError(t, err)
		return text(t, func(w io.Writer) error { return ipvsadm.ListDaemons(w, list) })
	}
	assert.Equal(t, program(t, "-L", "--daemon"), daemons())
	// lo has to be able to multicast for the daemons to run on it.
	out, err := exec.Command("ip", "link", "set", "lo", "multicast", "on").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("ip", "route", "add", "224.0.0.0/4", "dev", "lo").CombinedOutput()
	require.NoError(t, err, "%s", out)
	program(t, "--start-daemon", "master", "--mcast-interface", "lo", "--syncid", "7")
	program(t, "--start-daemon", "backup", "--mcast-interface", "lo", "--mcast-group", "224.0.0.99", "--mcast-port", "9999", "--mcast-ttl", "3", "--sync-maxlen", "1200")
	defer program(t, "--stop-daemon", "master")
	defer program(t, "--stop-daemon", "backup")
	assert.Contains(t, daemons(), "master sync daemon (mcast=lo, syncid=7")
	assert.Equal(t, program(t, "-L", "--daemon"), daemons())
}

func text(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, write(&b))
	return b.String()
}

// talk makes connections through a virtual server; half of them are left open and returned.
func talk(t *testing.T, listen, dial string) (held []net.Conn) {
	l, err := net.Listen("tcp", listen)
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	for i := range 6 {
		client, err := net.Dial("tcp", dial)
		require.NoError(t, err)
		server, err := l.Accept()
		require.NoError(t, err)
		_, err = server.Write(bytes.Repeat([]byte("v1"), 1000))
		require.NoError(t, err)
		_, err = io.ReadFull(client, make([]byte, 2000))
		require.NoError(t, err)
		if i%2 == 0 {
			held = append(held, client, server)
			continue
		}
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	}
	return held
}
