package sync

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/internal/lab"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/probe"
)

// What the kernel counts of real traffic, healthy and not, and what is made of it. Each kind of traffic has a virtual
// server of its own, and all run at once.
func TestKernelSigns(t *testing.T) {
	kerneltest.Require(t)
	var colours []lab.Colour
	for _, name := range []string{"good", "resets", "refuses", "drops", "mute"} {
		colours = append(colours, lab.Colour{Name: name, Backends: 2})
	}
	l, err := lab.New(lab.Config{Clients: 3, Colours: colours, DualStack: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	require.NoError(t, l.Node.Sysctl("net/ipv4/ip_forward", "1"))
	require.NoError(t, l.Node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	var table *ipvs.Conn
	require.NoError(t, l.Node.Do(func() (err error) {
		table, err = ipvs.Open()
		return err
	}))
	t.Cleanup(func() { _ = table.Close() })
	for _, b := range l.Colour("resets") {
		b.Set(lab.Resetting)
	}
	for _, b := range l.Colour("mute") {
		b.Set(lab.Paused)
	}
	for _, b := range l.Colour("refuses") {
		b.Stop()
	}
	for _, b := range l.Colour("drops") {
		for _, pods := range l.Pods {
			_, err := pods.Run("nft", "add table inet lost; add chain inet lost in { type filter hook prerouting priority 0; }; "+
				"add rule inet lost in ip daddr "+b.Addr.Addr().String()+" drop; add rule inet lost in ip6 daddr "+b.Addr6.Addr().String()+" tcp dport 80 drop")
			require.NoError(t, err)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	log := logrus.New()
	log.SetOutput(io.Discard)
	w := newWatcher(ctx, table, log)
	wanted := map[types.NamespacedName]*watched{}
	w.wanted = wanted
	want := map[string]probe.SignKind{}
	port := uint16(30000)
	// serve makes a virtual server that is watched.
	serve := func(name, colour string, at netip.Addr, forwarding ipvs.Forwarding, kind probe.SignKind) netip.AddrPort {
		port++
		key, mask := ipvs.Key{Protocol: ipvs.TCP, Addr: at, Port: port}, uint32(0xffffffff)
		if at.Is6() {
			mask = 128
		}
		of := &watched{colour: colour, keys: []ipvs.Key{key}, reals: map[realOf]netip.AddrPort{}, conns: map[ipvs.ConnKey]netip.AddrPort{}}
		ops := []ipvs.Op{{Verb: ipvs.AddService, Service: ipvs.Service{Key: key, Scheduler: "rr", Netmask: mask}}}
		for _, b := range l.Colour(colour) {
			backend := b.Addr
			if at.Is6() {
				backend = b.Addr6
			}
			real := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: backend.Addr(), Port: backend.Port()}, Weight: 1, Forwarding: forwarding}
			if forwarding != ipvs.Masquerade {
				real.Port = port
			}
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: ipvs.Service{Key: key}, Real: real})
			of.reals[realOf{key, real.RealKey}] = backend
			of.conns[ipvs.ConnKey{Protocol: ipvs.TCP, Virtual: netip.AddrPortFrom(at, port), Real: netip.AddrPortFrom(real.Addr, real.Port)}] = backend
		}
		require.NoError(t, table.Apply(ctx, ops))
		wanted[types.NamespacedName{Name: name}], want[name] = of, kind
		return netip.AddrPortFrom(at, port)
	}
	virtual := func(name, colour string, forwarding ipvs.Forwarding, kind probe.SignKind) netip.AddrPort {
		return serve(name, colour, l.NodeAddr, forwarding, kind)
	}
	virtual6 := func(name, colour string, kind probe.SignKind) netip.AddrPort {
		return serve(name, colour, l.NodeAddr6, ipvs.Masquerade, kind)
	}
	load := func(to netip.AddrPort, load lab.Load) {
		load.From, load.Target, load.Rate, load.Clients, load.Timeout = l.Client, to, 10, 4, 2*time.Second
		l.Start(load)
	}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	scan := func(to netip.AddrPort, from netip.Addr) {
		go func() {
			for n := uint16(1024); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					_ = sendSYN(l.Client, netip.AddrPortFrom(from, n), to)
				}
			}
		}()
	}

	load(virtual("the client ends", "good", ipvs.Masquerade, ""), lab.Load{})
	load(virtual("the real server ends", "good", ipvs.Masquerade, ""), lab.Load{Ending: lab.ServerEnds})
	load(virtual("the client aborts", "good", ipvs.Masquerade, ""), lab.Load{Ending: lab.Aborts})
	load(virtual("no answer", "mute", ipvs.Masquerade, ""), lab.Load{})
	busy := virtual("scanned beside long ones", "good", ipvs.Masquerade, "")
	// From an address of their own: the real server has the others' connections too, by other virtual servers, and could not
	// tell one from the same port apart.
	held, err := l.Hold(lab.Held{From: l.Client, Local: l.ClientAddrs[2:3], Target: busy, Count: 6, Every: 100 * time.Millisecond})
	require.NoError(t, err)
	scan(busy, l.ClientAddrs[1])
	scan(virtual("scanned", "good", ipvs.Masquerade, ""), l.ClientAddrs[1])
	scan(virtual("flooded", "good", ipvs.Masquerade, ""), netip.MustParseAddr("192.0.2.200"))
	scan(virtual("scanned, direct", "good", ipvs.Direct, ""), l.ClientAddrs[1])
	scan(virtual("flooded, direct", "good", ipvs.Direct, ""), netip.MustParseAddr("192.0.2.200"))
	virtual("idle", "refuses", ipvs.Masquerade, "")

	load(virtual("resets", "resets", ipvs.Masquerade, probe.Resetting), lab.Load{})
	load(virtual("refuses", "refuses", ipvs.Masquerade, probe.Refusing), lab.Load{})
	load(virtual("drops", "drops", ipvs.Masquerade, probe.Silent), lab.Load{Timeout: time.Second})
	load(virtual6("the client ends, IPv6", "good", ""), lab.Load{})
	load(virtual6("the client aborts, IPv6", "good", ""), lab.Load{Ending: lab.Aborts})
	load(virtual6("resets, IPv6", "resets", probe.Resetting), lab.Load{})
	load(virtual6("refuses, IPv6", "refuses", probe.Refusing), lab.Load{})
	load(virtual6("drops, IPv6", "drops", probe.Silent), lab.Load{Timeout: time.Second})
	stuck := virtual("drops, direct", "drops", ipvs.Direct, probe.Stuck)
	l.Start(lab.Load{From: l.Client, Target: stuck, Rate: 20, Clients: 20, Timeout: 4 * time.Second})

	seen := map[string]int{}
	const looks = 12
	for range looks {
		time.Sleep(time.Second)
		w.look(wanted, time.Now())
		for key := range wanted {
			for _, sign := range w.signsOf(key, wanted[key].colour) {
				assert.Equal(t, string(want[key.Name]), sign.Reason, "%s: %s", key.Name, sign.Message)
				seen[key.Name]++
			}
		}
	}
	for key, of := range wanted {
		past := w.past[key]
		for at, window := range of.windows(past[max(0, len(past)-5)], past[len(past)-1]) {
			t.Logf("%s %v: %+v", key.Name, at, window)
		}
		if want[key.Name] != "" {
			// Once it is there it stays: an observation fails after five seconds of it.
			assert.GreaterOrEqual(t, seen[key.Name], 6, "%s: seen in so many of %d looks", key.Name, looks)
		}
	}
	require.Empty(t, w.troubled)
	for _, s := range held.Report() {
		require.True(t, s.Alive(), "%v", s)
	}
}

// sendSYN sends one bare SYN, as a scanner does and who floods: nobody waits for the answer, and a host that has the
// address resets it.
func sendSYN(from *lab.Namespace, source, to netip.AddrPort) error {
	return from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		p := make([]byte, 44) // the kernel fills in the IP header's length and sum
		p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
		copy(p[12:16], source.Addr().AsSlice())
		copy(p[16:20], to.Addr().AsSlice())
		tcp := p[20:]
		binary.BigEndian.PutUint16(tcp[0:], source.Port())
		binary.BigEndian.PutUint16(tcp[2:], to.Port())
		binary.BigEndian.PutUint32(tcp[4:], 1)
		tcp[12], tcp[13] = 6<<4, 2 // six words; SYN
		binary.BigEndian.PutUint16(tcp[14:], 1024)
		tcp[20], tcp[21] = 2, 4 // MSS
		binary.BigEndian.PutUint16(tcp[22:], 1460)
		sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
		for _, part := range [][]byte{p[12:20], tcp} {
			for i := 0; i < len(part); i += 2 {
				sum += uint32(binary.BigEndian.Uint16(part[i:]))
			}
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
		return unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
	})
}
