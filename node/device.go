package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	vnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// DeviceName is the device that holds virtual addresses which no interface of the node has: ClusterIPs,
// external and load-balancer addresses. IPVS takes only what is for the node itself.
const DeviceName = "pointsman0"

// ErrDevice is a device of our name that is not ours: no dummy. It is left alone.
var ErrDevice = errors.New("there is a device " + DeviceName + " that pointsman did not make (remove it: `ip link delete " + DeviceName + "`)")

// Device is the dummy device as read.
type Device struct {
	Exists bool
	// Ready: it is up, without ARP, and makes no IPv6 address of its own.
	Ready bool
	// Addresses are those that it holds as pointsman puts them there: all bits long; IPv4 in scope host,
	// IPv6 deprecated. So neither is ever picked as the source for another destination: not by a
	// program, not by masquerade towards an interface that has no address itself.
	Addresses []netip.Addr
	// Foreign are others on it.
	Foreign []netip.Prefix
	// Elsewhere are the addresses that other interfaces of the node hold, of any scope. A virtual
	// address that is one of them is served where it is. Those of kube-proxy's device are not among them:
	// it takes one away when its Service gets our label, and ours has to be there by then.
	Elsewhere []netip.Addr
	// KubeProxy: there is a device kube-ipvs0, so kube-proxy runs in ipvs mode, or did. Proxied are the
	// addresses on it.
	KubeProxy bool
	Proxied   []netip.Addr
}

// kubeProxyDevice is the device on which kube-proxy in ipvs mode holds the addresses of its Services.
const kubeProxyDevice = "kube-ipvs0"

// DeviceVerb is what a DeviceOp does.
type DeviceVerb uint8

// The verbs, in the order of a plan.
const (
	AddDevice DeviceVerb = iota
	SetDevice
	AddAddress
	DelAddress
	DelDevice
)

// DeviceOp is one change of the dummy device, as a comparable value.
type DeviceOp struct {
	Verb DeviceVerb
	Addr netip.Prefix // AddAddress, DelAddress
}

// String is the command that the op equals.
func (o DeviceOp) String() string {
	switch o.Verb {
	case AddDevice:
		return "ip link add " + DeviceName + " type dummy"
	case SetDevice:
		return "ip link set " + DeviceName + " addrgenmode none arp off up"
	case AddAddress:
		if o.Addr.Addr().Is4() {
			return fmt.Sprintf("ip addr add %s dev %s scope host", o.Addr, DeviceName)
		}
		return fmt.Sprintf("ip addr add %s dev %s nodad preferred_lft 0", o.Addr, DeviceName)
	case DelAddress:
		return fmt.Sprintf("ip addr del %s dev %s", o.Addr, DeviceName)
	}
	return "ip link del " + DeviceName
}

// DiffDevice is what gives the device exactly the wanted addresses, but for those that the node has
// elsewhere; addresses come before others go. Without any to hold the device goes too.
func DiffDevice(want []netip.Addr, have Device) []DeviceOp {
	hold := make([]netip.Addr, 0, len(want))
	elsewhere := setOf(have.Elsewhere)
	for _, a := range want {
		if !elsewhere[a] {
			hold = append(hold, a)
		}
	}
	slices.SortFunc(hold, netip.Addr.Compare)
	hold = slices.Compact(hold)
	if len(hold) == 0 {
		if have.Exists {
			return []DeviceOp{{Verb: DelDevice}}
		}
		return nil
	}
	var ops []DeviceOp
	if !have.Exists {
		ops = append(ops, DeviceOp{Verb: AddDevice})
	}
	if !have.Ready {
		ops = append(ops, DeviceOp{Verb: SetDevice})
	}
	// A wanted address that is there in a wrong way has to make room first.
	wanted, held := setOf(hold), setOf(have.Addresses)
	var late []DeviceOp
	for _, p := range have.Foreign {
		op := DeviceOp{DelAddress, p}
		if wanted[p.Addr()] {
			ops = append(ops, op)
		} else {
			late = append(late, op)
		}
	}
	for _, a := range hold {
		if !held[a] {
			ops = append(ops, DeviceOp{AddAddress, whole(a)})
		}
	}
	for _, a := range have.Addresses {
		if !wanted[a] {
			ops = append(ops, DeviceOp{DelAddress, whole(a)})
		}
	}
	return append(ops, late...)
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func setOf(addrs []netip.Addr) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		set[a] = true
	}
	return set
}

// ReadDevice reads the device, and what the node has elsewhere. The error is ErrDevice for a device of our name
// that is no dummy.
func (n *Node) ReadDevice() (Device, error) {
	r, err := n.read()
	if err != nil {
		return Device{}, fmt.Errorf("reading device %s: %w", DeviceName, err)
	}
	return r.device, r.err
}

func device(links []netlink.Link, addrs []netlink.Addr) (Device, error) {
	var d Device
	index, proxy := -1, -1
	for _, l := range links {
		a := l.Attrs()
		if a.Name == kubeProxyDevice {
			proxy, d.KubeProxy = a.Index, true
		}
		if a.Name != DeviceName {
			continue
		}
		if l.Type() != "dummy" {
			return Device{}, fmt.Errorf("reading device %s, of type %s: %w", DeviceName, l.Type(), ErrDevice)
		}
		index, d.Exists = a.Index, true
		d.Ready = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_NOARP != 0
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		addr = addr.Unmap()
		ones, _ := a.Mask.Size()
		switch {
		case a.LinkIndex == proxy:
			d.Proxied = append(d.Proxied, addr)
		case a.LinkIndex != index:
			d.Elsewhere = append(d.Elsewhere, addr)
		case ones != addr.BitLen(),
			addr.Is4() && a.Scope != unix.RT_SCOPE_HOST,
			addr.Is6() && (a.PreferedLft != 0 || a.Flags&unix.IFA_F_PERMANENT == 0):
			d.Foreign = append(d.Foreign, netip.PrefixFrom(addr, ones))
		default:
			d.Addresses = append(d.Addresses, addr)
		}
	}
	slices.SortFunc(d.Addresses, netip.Addr.Compare)
	return d, nil
}

// ApplyDevice does the ops in order and stops at the first that fails. One whose end is reached already, since
// the address or the device is there or is gone, has not failed.
func (n *Node) ApplyDevice(ops []DeviceOp) error {
	n.writing.Lock()
	defer n.writing.Unlock()
	defer n.wrote()
	var found netlink.Link // looked up once: there may be thousands of addresses
	for len(ops) > 0 {
		o := ops[0]
		if found == nil && o.Verb != AddDevice {
			var err error
			if found, err = n.dummy(); errors.Is(err, os.ErrNotExist) && (o.Verb == DelDevice || o.Verb == DelAddress) {
				ops = ops[1:]
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", o, err)
			}
		}
		// Addresses go many to a send. Which of them failed is found out by doing them again one by one.
		if many := addressOps(ops); many > 1 && n.doMany(ops[:many], found) == nil {
			ops = ops[many:]
			continue
		}
		if err := n.do(o, found); err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		ops = ops[1:]
	}
	return nil
}

// wrote has what we changed be read back from the kernel.
func (n *Node) wrote() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watcher.forget()
}

// batchAddresses is how many addresses go into one send: each that fails is answered, and all answers have to fit into
// the socket's buffer, 208 KiB, of which a small datagram takes less than 1 KiB.
const batchAddresses = 128

// addressOps is how many of the ops at the beginning are alike and about addresses, up to a batch.
func addressOps(ops []DeviceOp) int {
	n := 0
	for n < min(len(ops), batchAddresses) && ops[n].Verb == ops[0].Verb && (ops[n].Verb == AddAddress || ops[n].Verb == DelAddress) {
		n++
	}
	return n
}

// doMany does ops about addresses in one send. After an error some of them may be done.
func (n *Node) doMany(ops []DeviceOp, found netlink.Link) error {
	var conn *nl.Conn
	if err := n.in(func() (err error) { conn, err = nl.Dial(unix.NETLINK_ROUTE, nil); return err }); err != nil {
		return err
	}
	defer conn.Close()
	messages := make([]nl.Message, len(ops))
	for i, o := range ops {
		messages[i] = addressMessage(o, found.Attrs().Index)
	}
	messages[len(messages)-1].Header.Flags |= nl.Acknowledge // failures are answered in any case
	if _, err := conn.SendMessages(messages); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerPatience)); err != nil {
		return err
	}
	_, err := conn.Receive()
	return err
}

// answerPatience is how long the kernel may take for a batch.
const answerPatience = 5 * time.Second

// addressMessage is an op as rtnetlink takes it: the same as netlink.AddrAdd makes of [address].
func addressMessage(o DeviceOp, index int) nl.Message {
	a := address(o.Addr)
	header := vnl.NewIfAddrmsg(unix.AF_INET)
	if o.Addr.Addr().Is6() {
		header.Family = unix.AF_INET6
	}
	header.Prefixlen, header.Index, header.Scope = uint8(o.Addr.Bits()), uint32(index), uint8(a.Scope)
	m := nl.Message{Header: nl.Header{Type: unix.RTM_DELADDR, Flags: nl.Request}}
	ae := nl.NewAttributeEncoder()
	raw := o.Addr.Addr().AsSlice()
	ae.Bytes(unix.IFA_LOCAL, raw)
	ae.Bytes(unix.IFA_ADDRESS, raw)
	if o.Verb == AddAddress {
		m.Header.Type, m.Header.Flags = unix.RTM_NEWADDR, nl.Request|nl.Create|nl.Excl
		if a.Flags != 0 {
			ae.Uint32(unix.IFA_FLAGS, uint32(a.Flags))
		}
		if a.ValidLft > 0 {
			info := vnl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: uint32(a.ValidLft), Prefered: uint32(a.PreferedLft)}}
			ae.Bytes(unix.IFA_CACHEINFO, info.Serialize())
		}
	}
	attributes, err := ae.Encode()
	if err != nil {
		panic(err) // of an attribute's length: these are a few bytes each
	}
	m.Data = append(header.Serialize(), attributes...)
	return m
}

// dummy is the device; os.ErrNotExist when there is none, ErrDevice when it is not ours.
func (n *Node) dummy() (netlink.Link, error) {
	found, err := n.link.LinkByName(DeviceName)
	if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
		return nil, os.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	if found.Type() != "dummy" {
		return nil, ErrDevice
	}
	return found, nil
}

func (n *Node) do(o DeviceOp, found netlink.Link) error {
	switch o.Verb {
	case AddDevice:
		err := n.link.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: DeviceName}})
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	case SetDevice:
		// Before it is up; and with IPv6 turned off the kernel has no such setting.
		if err := n.link.LinkSetIP6AddrGenMode(found, in6AddrGenModeNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		if err := n.link.LinkSetARPOff(found); err != nil {
			return err
		}
		return n.link.LinkSetUp(found)
	case AddAddress:
		if err := n.link.AddrAdd(found, address(o.Addr)); !errors.Is(err, unix.EEXIST) {
			return err
		}
	case DelAddress:
		a := &netlink.Addr{IPNet: ipNet(o.Addr)}
		if err := n.link.AddrDel(found, a); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	case DelDevice:
		if err := n.link.LinkDel(found); !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// in6AddrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const in6AddrGenModeNone = 1

// forever is INFINITY_LIFE_TIME of the kernel's net/addrconf.h, in seconds.
const forever = 0xffffffff

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is4() {
		a.Scope = unix.RT_SCOPE_HOST
		return a
	}
	a.Flags = unix.IFA_F_NODAD
	a.ValidLft = forever // with PreferedLft 0: deprecated from the start
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// RemoveDevice deletes the device; that there is none is no error.
func (n *Node) RemoveDevice() error {
	d, err := n.ReadDevice()
	if err != nil || !d.Exists {
		return err
	}
	return n.ApplyDevice([]DeviceOp{{Verb: DelDevice}})
}

func interrupted(err error) bool {
	return errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, unix.EINTR)
}
