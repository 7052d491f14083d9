package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// around is what Node and Fake both are.
type around interface {
	CheckSysctls([]Sysctl) ([]SysctlDiff, error)
	SetSysctls([]SysctlDiff) error
	Addresses() ([]netip.Addr, error)
	Changed() (<-chan struct{}, error)
	ReadDevice() (Device, error)
	ApplyDevice([]DeviceOp) error
	RemoveDevice() error
	HasIPv6() bool
	Close() error
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestFake(t *testing.T) { testAround(t, func(testing.TB) around { return new(Fake) }) }

func testAround(t *testing.T, open func(testing.TB) around) {
	t.Run("sysctls", func(t *testing.T) {
		n := open(t)
		diffs, err := n.CheckSysctls(Sysctls(true))
		require.NoError(t, err)
		require.NotEmpty(t, diffs)
		require.NoError(t, n.SetSysctls(diffs))
		diffs, err = n.CheckSysctls(Sysctls(true))
		require.NoError(t, err)
		require.Empty(t, diffs)

		odd := []Sysctl{{Key: "net.ipv4.ip_forward", Want: "0"}}
		diffs, err = n.CheckSysctls(odd)
		require.NoError(t, err)
		require.Equal(t, []SysctlDiff{{Sysctl: odd[0], Have: "1"}}, diffs)
		require.Equal(t, "sysctl -w net.ipv4.ip_forward=0", diffs[0].String())
	})
	t.Run("device", func(t *testing.T) {
		n := open(t)
		sync := func(want ...string) []DeviceOp {
			have, err := n.ReadDevice()
			require.NoError(t, err)
			ops := DiffDevice(addrs(want...), have)
			require.NoError(t, n.ApplyDevice(ops))
			have, err = n.ReadDevice()
			require.NoError(t, err)
			require.Empty(t, DiffDevice(addrs(want...), have), "a second time there is nothing to do")
			if len(want) > 0 {
				require.ElementsMatch(t, addrs(want...), have.Addresses)
			}
			require.Equal(t, len(want) > 0, have.Exists)
			return ops
		}
		require.Empty(t, sync())
		require.Len(t, sync("10.96.0.10", "fd00:96::10"), 4)
		require.Equal(t, "ip addr add 10.96.0.11/32 dev pointsman0 scope host", sync("10.96.0.10", "fd00:96::10", "10.96.0.11")[0].String())
		require.Len(t, sync("fd00:96::10"), 2)
		require.Equal(t, []DeviceOp{{Verb: DelDevice}}, sync())
		sync("10.96.0.1")
		require.NoError(t, n.RemoveDevice())
		require.NoError(t, n.RemoveDevice())
		d, err := n.ReadDevice()
		require.NoError(t, err)
		require.False(t, d.Exists)
	})
}

func TestFakeLacksASysctl(t *testing.T) {
	f := &Fake{}
	f.Lack("net.ipv4.vs.conntrack")
	f.Lack("net.ipv4.vs.backup_only")
	diffs, err := f.CheckSysctls(Sysctls(false))
	require.NoError(t, err)
	require.ErrorIs(t, f.SetSysctls(diffs), os.ErrNotExist)
}

func TestFakeAddresses(t *testing.T) {
	f := &Fake{}
	changed, err := f.Changed()
	require.NoError(t, err)
	f.SetAddresses(addrs("192.0.2.1")...)
	f.SetAddresses(addrs("192.0.2.1", "192.0.2.2")...)
	<-changed
	require.Empty(t, changed, "of size one")
	f.SetAddresses(addrs("192.0.2.2", "192.0.2.1")...)
	require.Empty(t, changed)
	d, err := f.ReadDevice()
	require.NoError(t, err)
	require.Equal(t, addrs("192.0.2.1", "192.0.2.2"), d.Elsewhere)
}

func TestDiffDevice(t *testing.T) {
	for name, c := range map[string]struct {
		want []string
		have Device
		ops  []string
	}{
		"nothing":                 {},
		"held elsewhere only":     {want: []string{"192.0.2.1"}, have: Device{Elsewhere: addrs("192.0.2.1")}},
		"none to hold any more":   {have: Device{Exists: true, Ready: true, Addresses: addrs("10.0.0.1")}, ops: []string{"ip link del pointsman0"}},
		"moved to another device": {want: []string{"192.0.2.1", "10.0.0.1"}, have: Device{Exists: true, Ready: true, Addresses: addrs("10.0.0.1", "192.0.2.1"), Elsewhere: addrs("192.0.2.1")}, ops: []string{"ip addr del 192.0.2.1/32 dev pointsman0"}},
		"down":                    {want: []string{"10.0.0.1"}, have: Device{Exists: true, Addresses: addrs("10.0.0.1")}, ops: []string{"ip link set pointsman0 addrgenmode none arp off up"}},
		"from nothing, doubled": {want: []string{"fd00::1", "10.0.0.1", "fd00::1"}, ops: []string{"ip link add pointsman0 type dummy", "ip link set pointsman0 addrgenmode none arp off up",
			"ip addr add 10.0.0.1/32 dev pointsman0 scope host", "ip addr add fd00::1/128 dev pointsman0 nodad preferred_lft 0"}},
		"add before delete, foreign last": {want: []string{"10.0.0.2"}, have: Device{Exists: true, Ready: true, Addresses: addrs("10.0.0.1"), Foreign: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}},
			ops: []string{"ip addr add 10.0.0.2/32 dev pointsman0 scope host", "ip addr del 10.0.0.1/32 dev pointsman0", "ip addr del fe80::1/64 dev pointsman0"}},
		"there in a wrong way": {want: []string{"10.0.0.2"}, have: Device{Exists: true, Ready: true, Foreign: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}},
			ops: []string{"ip addr del 10.0.0.2/24 dev pointsman0", "ip addr add 10.0.0.2/32 dev pointsman0 scope host"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, o := range DiffDevice(addrs(c.want...), c.have) {
				got = append(got, o.String())
			}
			require.Equal(t, c.ops, got)
		})
	}
}

func TestDiffDeviceReachesItsEnd(t *testing.T) {
	all := addrs("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2")
	some := rapid.SliceOfDistinct(rapid.SampledFrom(all), func(a netip.Addr) netip.Addr { return a })
	rapid.Check(t, func(r *rapid.T) {
		f := &Fake{}
		for range 3 {
			want := some.Draw(r, "want")
			f.SetAddresses(some.Draw(r, "elsewhere")...)
			have, _ := f.ReadDevice()
			require.NoError(r, f.ApplyDevice(DiffDevice(want, have)))
			have, _ = f.ReadDevice()
			require.Empty(r, DiffDevice(want, have))
			elsewhere, held := setOf(have.Elsewhere), setOf(have.Addresses)
			for _, a := range want {
				require.NotEqual(r, elsewhere[a], held[a], "on exactly one of both")
			}
		}
	})
}

func TestNodeAddresses(t *testing.T) {
	link := func(index int, name string, flags uint32) netlink.Link {
		return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index, Name: name, RawFlags: flags}}
	}
	links := []netlink.Link{link(1, "lo", unix.IFF_UP|unix.IFF_LOOPBACK), link(2, "eth0", unix.IFF_UP), link(3, "eth1", 0),
		link(4, DeviceName, unix.IFF_UP), link(5, "kube-ipvs0", unix.IFF_UP), link(6, "nodelocaldns", unix.IFF_UP)}
	on := func(index int, a string, scope, flags int) netlink.Addr {
		return netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(a)}, LinkIndex: index, Scope: scope, Flags: flags}
	}
	require.Equal(t, addrs("10.0.0.7", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::4"), nodeAddresses(links, []netlink.Addr{
		on(1, "192.0.2.99", 0, 0), on(1, "127.0.0.1", unix.RT_SCOPE_HOST, 0),
		on(2, "192.0.2.2", 0, unix.IFA_F_SECONDARY), on(2, "192.0.2.1", 0, 0), on(2, "192.0.2.1", 0, 0), on(2, "10.0.0.7", 0, 0),
		on(2, "169.254.1.1", unix.RT_SCOPE_LINK, 0), on(2, "169.254.1.2", 0, 0), on(2, "192.0.2.3", unix.RT_SCOPE_HOST, 0),
		on(2, "2001:db8::1", 0, 0), on(2, "2001:db8::2", 0, unix.IFA_F_DEPRECATED), on(2, "2001:db8::3", 0, unix.IFA_F_TENTATIVE),
		on(2, "2001:db8::4", 0, unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC), on(2, "2001:db8::5", 0, unix.IFA_F_TEMPORARY),
		on(2, "2001:db8::6", 0, unix.IFA_F_DADFAILED), on(2, "fe80::1", unix.RT_SCOPE_LINK, 0),
		on(3, "192.0.2.4", 0, 0), on(4, "10.96.0.1", 0, 0), on(5, "10.96.0.2", 0, 0), on(6, "10.96.0.3", 0, 0),
	}))
}

func TestVersion(t *testing.T) {
	for release, want := range map[string][2]int{"6.1.0-50-amd64": {6, 1}, "7.2.12+deb13-amd64": {7, 2}, "5.10": {5, 10}, "6.12-rc1": {6, 12}, "x": {}} {
		major, minor := kernelVersion(release)
		require.Equal(t, want, [2]int{major, minor}, release)
	}
}

func TestPreflightOthers(t *testing.T) {
	proc := t.TempDir()
	dial := new(net.Dialer).DialContext
	// Each look has a server of its own: one that is late goes on after the look has ended.
	look := func(patience time.Duration, answer http.HandlerFunc) map[string]Finding {
		server := httptest.NewServer(answer)
		defer server.Close()
		p := &preflight{proc: proc, proxyMode: server.URL, dial: dial, addresses: addrs("192.0.2.1", "2001:db8::1"), patience: patience}
		p.others(t.Context())
		found := make(map[string]Finding)
		for _, f := range p.findings {
			require.Equal(t, f.Level == OK, f.Mend == "", "%v", f)
			found[f.Subject] = f
		}
		return found
	}
	says := func(mode string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, mode) }
	}
	ipvs := look(time.Minute, says("ipvs"))["kube-proxy"]
	require.Equal(t, Warn, ipvs.Level)
	require.Contains(t, ipvs.Mend, "192.0.2.1/32,2001:db8::1/128", "what to exclude")
	require.Equal(t, OK, look(time.Minute, says("iptables"))["kube-proxy"].Level)
	require.Equal(t, Warn, look(time.Minute, says("nftables"))["kube-proxy"].Level)
	late := look(10*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	require.Equal(t, Warn, late["kube-proxy"].Level, "something is there")
	require.Equal(t, OK, look(time.Minute, says("<html>some other server</html>"))["kube-proxy"].Level)
	require.Len(t, look(time.Minute, http.NotFound), 1)

	require.NoError(t, os.MkdirAll(filepath.Join(proc, "42"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(proc, "42/comm"), []byte("keepalived\n"), 0o644))
	require.Equal(t, Warn, look(time.Minute, http.NotFound)["keepalived"].Level)

	server := httptest.NewServer(says("ipvs"))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &preflight{proxyMode: server.URL, dial: dial, patience: time.Minute}
	mode, slow := p.kubeProxyMode(ctx)
	require.Empty(t, mode)
	require.False(t, slow, "who was told to stop did not wait for it")
}
