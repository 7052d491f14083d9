package ipvsadm_test

import (
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/ipvsadm"
)

var header = ipvs.Info{Version: 0x010201, ConnTableSize: 4096}

// scenario is the table of the project's scenario: a NodePort with two colours behind it.
func scenario() []ipvs.ServiceInfo {
	real := func(at string, active uint32) ipvs.RealInfo {
		a := netip.MustParseAddrPort(at)
		return ipvs.RealInfo{
			RealServer: ipvs.RealServer{RealKey: ipvs.RealKey{Addr: a.Addr(), Port: a.Port()}, Weight: 1},
			Active:     active, Inactive: 2 * active,
			Counters: &ipvs.Counters{Conns: 99_999_999, InPackets: 100_000_000, OutPackets: 999_999_999, InBytes: 1e9, OutBytes: 1e11},
		}
	}
	return []ipvs.ServiceInfo{
		{
			Service: ipvs.Service{Key: ipvs.Key{Mark: 1 << 31, Addr: netip.IPv6Unspecified()}, Scheduler: "mh", Netmask: 64,
				Flags: ipvs.Persistent | ipvs.Sched1 | ipvs.Sched2, Timeout: 10800, PersistenceEngine: "sip"},
			Reals: []ipvs.RealInfo{{RealServer: ipvs.RealServer{RealKey: ipvs.RealKey{Addr: netip.MustParseAddr("::1:2")},
				Forwarding: ipvs.Bypass, Weight: math.MaxUint32, Upper: math.MaxUint32}}},
		},
		{
			Service: ipvs.Service{Key: ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 30080},
				Scheduler: "rr", Netmask: math.MaxUint32},
			Counters: ipvs.Counters{Conns: 1e14, ConnRate: 7},
			Reals:    []ipvs.RealInfo{real("10.244.140.76:80", 1), real("10.244.140.75:80", 0)},
		},
	}
}

func list(t *testing.T, table []ipvs.ServiceInfo, opts ipvsadm.Options) string {
	t.Helper()
	return text(t, func(w io.Writer) error { return ipvsadm.List(w, table, header, opts) })
}

func TestList(t *testing.T) {
	assert.Equal(t, `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  -2147483648 IPv6 mh (mh-fallback,mh-port) persistent 10800 mask 64 pe sip
  -> [::0.1.0.2]:0                (null)  -1     0          0         
TCP  192.0.2.1:30080 rr
  -> 10.244.140.75:80             Masq    1      0          0         
  -> 10.244.140.76:80             Masq    1      1          2         
`, list(t, scenario(), ipvsadm.Options{Numeric: true}))
}

func TestListCounters(t *testing.T) {
	table := scenario()[1:]
	assert.Equal(t, `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.1:30080                  100T        0        0        0        0
  -> 10.244.140.75:80             99999999  100000K  999999K    1000M     100G
  -> 10.244.140.76:80             99999999  100000K  999999K    1000M     100G
`, list(t, table, ipvsadm.Options{Numeric: true, Stats: true, Rate: true}))
	assert.Contains(t, list(t, table, ipvsadm.Options{Numeric: true, Stats: true, Exact: true}),
		"  -> 10.244.140.75:80             99999999 100000000 999999999 1000000000 100000000000\n")
	// Only the last two columns of a real server's rates are scaled.
	table[0].Reals = table[0].Reals[:1]
	c := table[0].Reals[0].Counters
	c.ConnRate, c.InByteRate = 100_000_000, 100_000_000
	assert.Contains(t, list(t, table, ipvsadm.Options{Numeric: true, Rate: true}),
		"  -> 10.244.140.76:80             100000000        0        0  100000K        0\n")
}

func TestListOneService(t *testing.T) {
	key := scenario()[1].Key
	assert.True(t, strings.HasPrefix(list(t, scenario(), ipvsadm.Options{Numeric: true, Service: &key}), "Prot "))
	key.Port++
	err := ipvsadm.List(io.Discard, scenario(), header, ipvsadm.Options{Numeric: true, Service: &key})
	assert.ErrorIs(t, err, ipvsadm.ErrNoService)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestListColour(t *testing.T) {
	colour := func(_ ipvs.Key, r ipvs.RealKey) string {
		return map[string]string{"10.244.140.75:80": "v1", "10.244.140.76:80": "v2"}[r.String()]
	}
	got := list(t, scenario(), ipvsadm.Options{Numeric: true, Colour: colour})
	assert.Equal(t, `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn  Colour
FWM  -2147483648 IPv6 mh (mh-fallback,mh-port) persistent 10800 mask 64 pe sip
  -> [::0.1.0.2]:0                (null)  -1     0          0         
TCP  192.0.2.1:30080 rr
  -> 10.244.140.75:80             Masq    1      0          0          v1
  -> 10.244.140.76:80             Masq    1      1          2          v2
`, got)
	for _, opts := range []ipvsadm.Options{{}, {Stats: true}, {Rate: true}, {Thresholds: true}, {PersistentConn: true}, {TunInfo: true}} {
		opts.Numeric = true
		table := scenario()[1:]
		table[0].Reals[0].Counters, table[0].Reals[1].Counters = &ipvs.Counters{}, nil
		without := list(t, table, opts)
		opts.Colour = colour
		lines := strings.Split(list(t, table, opts), "\n")
		// The word stands over the colours, and taking the column away leaves what was there.
		assert.Equal(t, strings.Index(lines[2], " Colour"), strings.Index(lines[4], " v1"), "%s", lines)
		lines[2] = strings.TrimRight(strings.TrimSuffix(lines[2], " Colour"), " ")
		lines[4], lines[5] = strings.TrimSuffix(lines[4], " v1"), strings.TrimSuffix(lines[5], " v2")
		want := strings.Split(without, "\n")
		want[2] = strings.TrimRight(want[2], " ")
		assert.Equal(t, want, lines)
	}
}

// A sort that subtracts 32-bit numbers: those further apart than 2^31 are in the wrong order.
func TestListSortsAsTheProgram(t *testing.T) {
	var table []ipvs.ServiceInfo
	for _, a := range []string{"10.0.0.1", "192.0.2.1", "100.0.0.1", "9.0.0.1"} {
		table = append(table, ipvs.ServiceInfo{Service: ipvs.Service{
			Key: ipvs.Key{Protocol: ipvs.TCP, Addr: netip.MustParseAddr(a), Port: 80}, Scheduler: "rr", Netmask: math.MaxUint32}})
	}
	got := list(t, table, ipvsadm.Options{Numeric: true})
	_, rows, _ := strings.Cut(got, "InActConn\n")
	assert.Equal(t, "TCP  192.0.2.1:80 rr\nTCP  9.0.0.1:80 rr\nTCP  10.0.0.1:80 rr\nTCP  100.0.0.1:80 rr\n", rows)
	assert.Equal(t, "10.0.0.1", table[0].Addr.String(), "the caller's slice is left alone")
	_, rows, _ = strings.Cut(list(t, table, ipvsadm.Options{Numeric: true, NoSort: true}), "InActConn\n")
	assert.True(t, strings.HasPrefix(rows, "TCP  10.0.0.1:80 rr\n"))
}

type fakeNames struct{}

func (fakeNames) Host(a netip.Addr) string {
	return map[string]string{
		"192.0.2.1": "mast01", "10.244.140.75": "a-rather-long-name-for-a-pod.example", "2001:db8::1": strings.Repeat("x", 70),
	}[a.String()]
}

func (fakeNames) Port(p uint16, protocol ipvs.Protocol) string {
	if p == 80 && protocol == ipvs.TCP {
		return "http"
	}
	return ""
}

func TestListNames(t *testing.T) {
	table := scenario()[1:]
	table[0].Reals = append(table[0].Reals, ipvs.RealInfo{RealServer: ipvs.RealServer{
		RealKey: ipvs.RealKey{Addr: netip.MustParseAddr("2001:db8::1"), Port: 80}, Forwarding: ipvs.Tunnel}})
	got := list(t, table, ipvsadm.Options{Resolver: fakeNames{}, NoSort: true})
	_, rows, _ := strings.Cut(got, "InActConn\n")
	assert.Equal(t, `TCP  mast01:30080 rr
  -> 10.244.140.76:http           Masq    1      1          2         
  -> a-rather-long-name-for-a-pod Masq    1      0          0         
  -> [`+strings.Repeat("x", 58)+` Tunnel  0      0          0         
`, rows)
}

func TestSystemResolverPorts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "services")
	require.NoError(t, os.WriteFile(path, []byte(`# comment
http		80/tcp		www	# WorldWideWeb HTTP
domain 53/tcp
domain-u	53/udp
first 99/tcp
second 99/tcp
broken
big 99999/tcp
#gone 81/tcp
dccp 82/dccp
`), 0o600))
	r := &ipvsadm.SystemResolver{ServicesFile: path}
	assert.Equal(t, "http", r.Port(80, ipvs.TCP))
	assert.Equal(t, "", r.Port(80, ipvs.UDP))
	assert.Equal(t, "domain-u", r.Port(53, ipvs.UDP))
	assert.Equal(t, "first", r.Port(99, ipvs.TCP))
	assert.Equal(t, "", r.Port(81, ipvs.TCP))
	assert.Equal(t, "", r.Port(0, 0))
	assert.Equal(t, "", (&ipvsadm.SystemResolver{ServicesFile: path + ".none"}).Port(80, ipvs.TCP))
}

// However many names there are to look up, a listing ends in time.
func TestSystemResolverIsBounded(t *testing.T) {
	r := &ipvsadm.SystemResolver{Timeout: time.Nanosecond}
	start := time.Now()
	for range 100 {
		assert.Empty(t, r.Host(netip.MustParseAddr("198.51.100.77")))
	}
	assert.Less(t, time.Since(start), 2*time.Second)
}

func TestListConnections(t *testing.T) {
	proc := `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0000202 D903 C0000201 7580 0AF48C4C 0050 ESTABLISHED     899
IP  C0000202 0000 00000007 0000 0AF48C4C 0000 NONE         6000
UDP 2001:0db8:0000:0000:0000:0000:0000:0002 13C4 2001:0db8:0000:0000:0000:0000:0000:0001 13C4 0AF48C4C 13C4 UDP              61 sip 6162
`
	read := func(opts ipvsadm.Options) string {
		return text(t, func(w io.Writer) error { return ipvsadm.ListConnections(w, strings.NewReader(proc), opts) })
	}
	assert.Equal(t, `IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 192.0.2.2:55555    192.0.2.1:30080    10.244.140.76:80
IP  100:00 NONE        192.0.2.2:0        0.0.0.7:0          10.244.140.76:0
UDP 01:01  UDP         [2001:db8::2]:5060 [2001:db8::1]:5060 10.244.140.76:5060
`, read(ipvsadm.Options{Numeric: true}))
	assert.Equal(t, `IPVS connection entries
pro expire state       source             virtual            destination        pe name          pe_data
TCP 14:59  ESTABLISHED 192.0.2.2:55555    mast01:30080       10.244.140.76:http
IP  100:00 NONE        192.0.2.2:0        0.0.0.7:0          10.244.140.76:0
UDP 01:01  UDP         [2001:db8::2]:5060 [`+strings.Repeat("x", 58)+` 10.244.140.76:5060 sip                6162
`, read(ipvsadm.Options{Resolver: fakeNames{}, PersistentConn: true}))
	for _, bad := range []string{"TCP", "TCP x 0 C0000201 7580 0AF48C4C 0050 ESTABLISHED 9", "TCP C0000202 D903 C0000201 7580 0AF48C4C 0050 ESTABLISHED x", "TCP C0000202 D903 C0000201 75800 0AF48C4C 0050 ESTABLISHED 1"} {
		assert.Error(t, ipvsadm.ListConnections(io.Discard, strings.NewReader("title\n"+bad+"\n"), ipvsadm.Options{Numeric: true}), bad)
	}
}

func TestListDaemons(t *testing.T) {
	assert.Equal(t, `master sync daemon (mcast=eth0, syncid=7)
backup sync daemon (mcast=eth1, syncid=8, maxlen=1200, group=ff02::1, port=8848, ttl=3)
`, text(t, func(w io.Writer) error {
		return ipvsadm.ListDaemons(w, []ipvs.Daemon{
			{State: ipvs.Master, Interface: "eth0", SyncID: 7},
			{State: ipvs.Backup, Interface: "eth1", SyncID: 8, MaxLen: 1200, Group: netip.MustParseAddr("ff02::1"), Port: 8848, TTL: 3},
		})
	}))
}

type brokenWriter struct{}

var errBroken = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestListReportsTheWriter(t *testing.T) {
	assert.ErrorIs(t, ipvsadm.List(brokenWriter{}, scenario(), header, ipvsadm.Options{Numeric: true}), errBroken)
	assert.ErrorIs(t, ipvsadm.ListTimeouts(brokenWriter{}, ipvs.Timeouts{}), errBroken)
}
