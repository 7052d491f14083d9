package nft

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

// world is a node (the test's own namespace) with an outside client and three pods, each routed over a veth
// pair of its own, IPv4 and IPv6. Two of the pods serve, and say who they are and whom they see: "backend" is
// what the virtual servers send to, "candidate" what nothing does.
type world struct {
	table *Conn
	in    map[string]netns.NsHandle // "node", "outside", "pod", "backend", "candidate"
}

const backendPort = 8080

var worldAddrs = map[string][2]netip.Addr{
	"outside":   {addr("192.0.2.100"), addr("2001:db8::100")},
	"pod":       {addr("10.244.1.6"), addr("fd00:244::6")},
	"backend":   {addr("10.244.1.5"), addr("fd00:244::5")},
	"candidate": {addr("10.244.1.7"), addr("fd00:244::7")},
}

func newWorld(t *testing.T) *world {
	w := &world{in: map[string]netns.NsHandle{"node": kerneltest.Namespace(t)}}
	var err error
	w.table, err = Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.table.Close() })
	for _, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding"} {
		sh(t, "sysctl -qw net."+key+"=1")
	}
	for i, name := range []string{"outside", "pod", "backend", "candidate"} {
		ns := fmt.Sprintf("nft-%s-%d", name, time.Now().UnixNano())
		sh(t, "ip netns add "+ns)
		t.Cleanup(func() { sh(t, "ip netns del "+ns) })
		handle, err := netns.GetFromName(ns)
		require.NoError(t, err)
		t.Cleanup(func() { _ = handle.Close() })
		w.in[name] = handle
		gateway := [2]string{"10.244.1.1", "fd00:244::1"}
		if name == "outside" {
			gateway = [2]string{"192.0.2.1", "2001:db8::1"}
		}
		own := worldAddrs[name]
		sh(t, fmt.Sprintf(`set -e; v=v%d; ns=%s; in="ip -n $ns"
			ip link add $v type veth peer name eth0 netns $ns; ip link set $v up; $in link set lo up; $in link set eth0 up
			ip addr add %s/32 dev $v; ip addr add %s/128 dev $v nodad; ip route add %s/32 dev $v; ip route add %s/128 dev $v
			$in addr add %[5]s/32 dev eth0; $in addr add %[6]s/128 dev eth0 nodad
			$in route add %[3]s/32 dev eth0; $in route add %[4]s/128 dev eth0; $in route add default via %[3]s; $in route add default via %[4]s`,
			i, ns, gateway[0], gateway[1], own[0], own[1]))
	}
	// As package node makes them.
	sh(t, `set -e; ip link add vip type dummy; ip link set vip addrgenmode none; ip link set vip up
		ip addr add 10.96.0.10/32 dev vip scope host; ip addr add fd00:96::10/128 dev vip nodad preferred_lft 0`)
	var rules strings.Builder
	for _, vip := range []string{"192.0.2.1:30080", "192.0.2.1:31080", "10.96.0.10:80", "[2001:db8::1]:30080", "[2001:db8::1]:31080", "[fd00:96::10]:80"} {
		real := "10.244.1.5:8080"
		if vip[0] == '[' {
			real = "[fd00:244::5]:8080"
		}
		for _, flag := range []string{"-t", "-u"} {
			fmt.Fprintf(&rules, "-A %s %s -s rr\n-a %[1]s %[2]s -r %[3]s -m\n", flag, vip, real)
		}
	}
	sh(t, "ipvsadm -R <<'END' && sysctl -qw net.ipv4.vs.conntrack=1\n"+rules.String()+"END\n")
	w.serve(t, "backend")
	w.serve(t, "candidate")
	return w
}

// serve has the pod answer whatever it is sent with its name and the address that it was sent from.
func (w *world) serve(t *testing.T, pod string) {
	for _, a := range worldAddrs[pod] {
		at := netip.AddrPortFrom(a, backendPort)
		require.NoError(t, kerneltest.In(w.in[pod], func() error {
			l, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = p.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go answer(c, pod, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
				}
			}()
			go func() {
				var b [64]byte
				for {
					_, from, err := p.ReadFromUDPAddrPort(b[:])
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if err == nil { // else an ICMP error
						_, _ = p.WriteToUDPAddrPort([]byte(pod+" "+from.Addr().Unmap().String()), from)
					}
				}
			}()
			return nil
		}))
	}
}

func answer(c io.ReadWriteCloser, pod string, from netip.Addr) {
	defer func() { _ = c.Close() }()
	var b [64]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		if _, err := io.WriteString(c, pod+" "+from.Unmap().String()); err != nil {
			return
		}
	}
}

// patience is for machines that are slow; nothing waits for it to pass where all is well.
const patience = time.Minute

// client is a connection, or a UDP flow, of which every question is a packet of its own.
type client struct{ c io.ReadWriteCloser }

func (w *world) dial(from, network, to string, control func(string, string, syscall.RawConn) error) (client, error) {
	var out client
	err := kerneltest.In(w.in[from], func() error {
		d := net.Dialer{Timeout: patience, Control: control}
		c, err := d.Dial(network, to)
		if err != nil {
			return err
		}
		out.c = c
		return c.SetDeadline(time.Now().Add(patience))
	})
	return out, err
}

// ask gives back who answered, and the client's address as it was seen there.
func (c client) ask() (who, source string) {
	if _, err := c.c.Write([]byte("?")); err != nil {
		return err.Error(), ""
	}
	b := make([]byte, 64)
	n, err := c.c.Read(b)
	if err != nil {
		return err.Error(), ""
	}
	who, source, _ = strings.Cut(string(b[:n]), " ")
	return who, source
}

func (w *world) askOnce(from, network, to string) (who, source string) {
	c, err := w.dial(from, network, to, nil)
	if err != nil {
		return err.Error(), ""
	}
	defer func() { _ = c.c.Close() }()
	return c.ask()
}

func TestKernelTraffic(t *testing.T) {
	w := newWorld(t)
	want := Ruleset{Virtual: map[Endpoint]Masquerade{}, Hairpin: map[netip.Addr]struct{}{}}
	for _, protocol := range []uint8{6, 17} {
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			want.Virtual[Endpoint{protocol, addr(a), 30080}] = Always
		}
		for _, a := range []string{"10.96.0.10", "fd00:96::10"} {
			want.Virtual[Endpoint{protocol, addr(a), 80}] = ClusterIP
		}
	}
	for _, a := range worldAddrs["backend"] {
		want.Hairpin[a] = struct{}{}
	}
	const (
		own  = "" // the client's own address
		node = "node"
	)
	type expect map[string]string // by client
	for _, round := range []struct {
		name  string
		cidrs []netip.Prefix
		ways  map[string]expect
	}{
		{"with pod networks", []netip.Prefix{cidr("10.244.0.0/16"), cidr("fd00:244::/48")}, map[string]expect{
			"nodeport":  {"outside": node, "pod": node, "node": node, "backend": node},
			"clusterip": {"outside": node, "pod": own, "node": node, "backend": node},
			"local":     {"outside": own, "pod": own, "backend": node},
		}},
		{"without", nil, map[string]expect{
			"nodeport":  {"outside": node, "pod": node, "node": node, "backend": node},
			"clusterip": {"outside": own, "pod": own, "node": node, "backend": node},
			"local":     {"outside": own, "pod": own, "backend": node},
		}},
	} {
		want.ClusterCIDRs = round.cidrs
		_, err := w.table.Apply(want)
		require.NoError(t, err)
		for way, clients := range round.ways {
			for client, source := range clients {
				for i, family := range []string{"ipv4", "ipv6"} {
					vip := map[string][2]string{
						"nodeport": {"192.0.2.1:30080", "[2001:db8::1]:30080"}, "local": {"192.0.2.1:31080", "[2001:db8::1]:31080"},
						"clusterip": {"10.96.0.10:80", "[fd00:96::10]:80"},
					}[way][i]
					expected := [2]string{"10.244.1.1", "fd00:244::1"}[i]
					if source == own {
						expected = worldAddrs[client][i].String()
					}
					for _, network := range []string{"tcp", "udp"} {
						t.Run(strings.Join([]string{round.name, way, "from", client, network, family}, " "), func(t *testing.T) {
							who, source := w.askOnce(client, network, vip)
							require.Equal(t, []string{"backend", expected}, []string{who, source})
						})
					}
				}
			}
		}
	}
}
