package node

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

func open(t testing.TB) *Node {
	kerneltest.Namespace(t)
	n, err := Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestKernelAround(t *testing.T) {
	testAround(t, func(t testing.TB) around { return open(t) })
}

// The node is that of the namespace which opened it, whichever thread asks.
func TestKernelSysctlsOfTheRightNamespace(t *testing.T) {
	const key = "/proc/sys/net/ipv4/vs/conntrack"
	n := open(t)
	done := make(chan error)
	go func() { // on a thread of the first namespace
		diffs, err := n.CheckSysctls(Sysctls(true))
		if err == nil {
			err = n.SetSysctls(diffs)
		}
		done <- err
	}()
	require.NoError(t, <-done)
	own, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, "1\n", string(own))
	go func() {
		other, err := os.ReadFile(key)
		if err == nil && string(other) != "0\n" {
			t.Errorf("the first namespace's %s was set too", key)
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

func TestKernelSysctlMissing(t *testing.T) {
	n := open(t)
	want := []Sysctl{{Key: "net.ipv4.vs.no_such_key", Want: "1", Optional: true}, {Key: "net.ipv4.vs.nor_this", Want: "1"}, {Key: "net.ipv4.vs.conntrack", Want: "1"}}
	diffs, err := n.CheckSysctls(want)
	require.NoError(t, err)
	require.Len(t, diffs, 2, "what the kernel lacks and need not have is no difference")
	require.True(t, diffs[0].Missing)
	diffs = append(diffs, SysctlDiff{Sysctl: want[0]}) // even then it is passed over
	err = n.SetSysctls(diffs)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "nor_this")
	require.NotContains(t, err.Error(), "no_such_key")
	diffs, err = n.CheckSysctls(want)
	require.NoError(t, err)
	require.Len(t, diffs, 1, "one that fails does not stop the others")
}

func TestKernelDevice(t *testing.T) {
	n := open(t)
	sh(t, "ip link add eth0 type dummy; ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad")
	before := sh(t, "ip addr show dev eth0")
	sync := func(want ...string) {
		t.Helper()
		for range 2 {
			d, err := n.ReadDevice()
			require.NoError(t, err)
			require.NoError(t, n.ApplyDevice(DiffDevice(addrs(want...), d)))
		}
		d, err := n.ReadDevice()
		require.NoError(t, err)
		require.Empty(t, DiffDevice(addrs(want...), d))
	}
	sync("10.96.0.10", "fd00:96::10", "192.0.2.1", "2001:db8::1")
	d, err := n.ReadDevice()
	require.NoError(t, err)
	require.Equal(t, addrs("10.96.0.10", "fd00:96::10"), d.Addresses, "what eth0 has stays there, and no link-local address")
	require.Empty(t, d.Foreign)

	for _, drift := range []string{
		"ip link set pointsman0 down", "ip link set pointsman0 arp on", "ip link del pointsman0", "ip addr flush dev pointsman0",
		"ip addr add 10.9.9.9/24 dev pointsman0", "ip addr add fd00:9::9/64 dev pointsman0",
		"ip addr del 10.96.0.10/32 dev pointsman0; ip addr add 10.96.0.10/24 dev pointsman0",
		"ip addr del 10.96.0.10/32 dev pointsman0; ip addr add 10.96.0.10/32 dev pointsman0",
		"ip addr del fd00:96::10/128 dev pointsman0; ip addr add fd00:96::10/128 dev pointsman0",
	} {
		sh(t, drift)
		d, err := n.ReadDevice()
		require.NoError(t, err)
		require.NotEmpty(t, DiffDevice(addrs("10.96.0.10", "fd00:96::10"), d), drift)
		sync("10.96.0.10", "fd00:96::10")
	}
	require.Equal(t, before, sh(t, "ip addr show dev eth0"))

	// The text of each op is a command that does the same.
	require.NoError(t, n.RemoveDevice())
	d, err = n.ReadDevice()
	require.NoError(t, err)
	for _, o := range DiffDevice(addrs("10.96.0.10", "fd00:96::10"), d) {
		sh(t, o.String())
	}
	sync("10.96.0.10", "fd00:96::10")
	d, err = n.ReadDevice()
	require.NoError(t, err)
	require.Len(t, d.Addresses, 2)
	sync()
}

// Thousands of addresses go many to a send; one that is there already, or gone already, keeps none of the others
// from their end, and one that cannot be is told.
func TestKernelManyAddresses(t *testing.T) {
	n := open(t)
	_, err := n.Changed() // from here on readings are kept
	require.NoError(t, err)
	var want []netip.Addr
	for i := range 3*batchAddresses + 7 {
		want = append(want, netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}))
		if i%3 == 0 {
			want = append(want, netip.MustParseAddr(fmt.Sprintf("fd00:96::%x", i+1)))
		}
	}
	before, err := n.ReadDevice()
	require.NoError(t, err)
	sh(t, "ip link add pointsman0 type dummy; ip addr add 10.96.0.200/32 dev pointsman0 scope host")
	make := func(d Device) {
		t.Helper()
		require.NoError(t, n.ApplyDevice(DiffDevice(want, d)))
	}
	make(before) // knows nothing of the one that is there
	d, err := n.ReadDevice()
	require.NoError(t, err)
	make(d)
	d, err = n.ReadDevice()
	require.NoError(t, err)
	require.Empty(t, DiffDevice(want, d))
	require.Len(t, d.Addresses, len(want))

	without := slices.DeleteFunc(slices.Clone(want), func(a netip.Addr) bool { return a.Is4() })
	ops := DiffDevice(without, d)
	sh(t, "ip addr del 10.96.0.77/32 dev pointsman0")
	require.NoError(t, n.ApplyDevice(ops))
	d, err = n.ReadDevice()
	require.NoError(t, err)
	require.Equal(t, len(without), len(d.Addresses))

	bad := DiffDevice(want, d)
	bad[5].Addr = netip.MustParsePrefix("ff02::1/128") // a multicast address
	require.ErrorContains(t, n.ApplyDevice(bad), bad[5].String())
	d, err = n.ReadDevice()
	require.NoError(t, err)
	make(d)
	d, err = n.ReadDevice()
	require.NoError(t, err)
	require.Len(t, d.Addresses, len(want))
}

func TestKernelDeviceOfAnother(t *testing.T) {
	n := open(t)
	sh(t, "ip link add pointsman0 type bridge && ip addr add 10.0.0.1/24 dev pointsman0")
	before := sh(t, "ip addr show dev pointsman0")
	_, err := n.ReadDevice()
	require.ErrorIs(t, err, ErrDevice)
	require.ErrorIs(t, n.RemoveDevice(), ErrDevice)
	for _, verb := range []DeviceVerb{SetDevice, AddAddress, DelAddress, DelDevice} {
		require.ErrorIs(t, n.ApplyDevice([]DeviceOp{{Verb: verb, Addr: netip.MustParsePrefix("10.0.0.1/24")}}), ErrDevice)
	}
	require.Equal(t, before, sh(t, "ip addr show dev pointsman0"))
}

// A virtual address is never picked as the source for somewhere else, not even where no other is at hand.
func TestKernelVirtualAddressIsNoSource(t *testing.T) {
	n := open(t)
	d, err := n.ReadDevice()
	require.NoError(t, err)
	require.NoError(t, n.ApplyDevice(DiffDevice(addrs("10.96.0.10", "fd00:96::10"), d)))
	// eth0 comes later, and has no address: as a pod's veth is on many networks.
	sh(t, `ip link add cali0 type dummy; ip link set cali0 up; ip route add 10.244.1.5/32 dev cali0; ip route add fd00:244::5/128 dev cali0
		ip link add eth0 type dummy; ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad`)
	require.Contains(t, sh(t, "ip route get 10.244.1.5"), "src 192.0.2.1")
	require.Contains(t, sh(t, "ip route get fd00:244::5"), "src 2001:db8::1")
	require.Contains(t, sh(t, "ip route get 10.96.0.10"), "local 10.96.0.10")
}

func TestKernelChanged(t *testing.T) {
	n := open(t)
	sh(t, "ip link add eth0 type dummy; ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0")
	changed, err := n.Changed()
	require.NoError(t, err)
	same, err := n.Changed()
	require.NoError(t, err)
	require.Equal(t, changed, same)
	expect := func(want ...string) {
		t.Helper()
		for deadline := time.After(5 * time.Second); ; {
			select {
			case <-changed:
			case <-deadline:
				t.Fatal("no change seen that leads to ", want)
			}
			got, err := n.Addresses()
			require.NoError(t, err)
			if slices.Equal(addrs(want...), got) {
				return
			}
		}
	}
	quiet := func() {
		t.Helper()
		select {
		case <-changed:
			t.Fatal("nothing of ours changed")
		case <-time.After(300 * time.Millisecond):
		}
	}
	quiet()
	sh(t, "ip addr add 192.0.2.2/24 dev eth0")
	expect("192.0.2.1", "192.0.2.2")
	sh(t, "ip link set eth0 down")
	expect()
	sh(t, "ip link set eth0 up")
	expect("192.0.2.1", "192.0.2.2")
	// IPv6: not before the check for duplicates is over, then by itself.
	sh(t, "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ip addr add 2001:db8::1/64 dev v0")
	expect("192.0.2.1", "192.0.2.2", "2001:db8::1")

	// A pod that comes and goes is none of our business.
	sh(t, "ip link add pod type veth peer name peer; ip link set pod up; ip link set peer up; sleep 0.1; ip link del pod")
	quiet()
	own := []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}
	d, err := n.ReadDevice()
	require.NoError(t, err)
	require.NoError(t, n.ApplyDevice(DiffDevice(addrs("10.96.0.10", "fd00:96::10"), d)))
	expect(own...)
	time.Sleep(100 * time.Millisecond)
	for len(changed) > 0 { // the device is made in steps
		<-changed
	}
	for _, harm := range []string{
		"ip addr del 10.96.0.10/32 dev pointsman0", "ip link set pointsman0 down",
		"ip addr add 10.96.0.77/32 dev pointsman0", "ip link del pointsman0", "ip addr add 10.96.0.10/32 dev lo",
	} {
		sh(t, harm)
		expect(own...)
		quiet()
	}
}

func TestKernelModules(t *testing.T) {
	kerneltest.Namespace(t)
	require.NoError(t, EnsureModules("ip_vs", "nf-conntrack", "dummy", "ip_vs_wrr"))
	require.True(t, HasModule("ip_vs_wrr"))
	require.False(t, HasModule("no_such_module"))
	err := EnsureModules("no_such_module", "ip_vs")
	require.ErrorIs(t, err, ErrModule)
	require.ErrorContains(t, err, "run `modprobe no_such_module`")
}

func TestKernelPreflight(t *testing.T) {
	n := open(t)
	found := func() map[string]Finding {
		out := make(map[string]Finding)
		for _, f := range n.Preflight(t.Context()) {
			require.Equal(t, f.Level == OK, f.Mend == "", "%v", f)
			out[f.Subject] = f
		}
		return out
	}
	f := found()
	for _, subject := range []string{"kernel", "capabilities", "module ip_vs", "module nf_conntrack", "nftables", "kube-proxy"} {
		require.Equal(t, OK, f[subject].Level, "%s: %v", subject, f[subject])
	}
	require.Equal(t, "sysctl -w net.ipv4.vs.conntrack=1", f["sysctl net.ipv4.vs.conntrack"].Mend)
	diffs, err := n.CheckSysctls(Sysctls(false))
	require.NoError(t, err)
	require.NoError(t, n.SetSysctls(diffs))
	sh(t, "ip link add kube-ipvs0 type dummy; ip link add pointsman0 type bridge")
	f = found()
	require.Equal(t, OK, f["sysctls"].Level)
	require.Equal(t, Warn, f["kube-proxy"].Level)
	require.Equal(t, Fail, f["device pointsman0"].Level)
}

func BenchmarkCheckSysctls(b *testing.B) {
	n := open(b)
	list := Sysctls(true)
	for b.Loop() {
		_, err := n.CheckSysctls(list)
		require.NoError(b, err)
	}
}
