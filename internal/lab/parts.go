package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Bare is a laboratory with nothing in it, for a network other than [New]'s: it is laid with
// [Lab.Add], [Join] and the methods of [Namespace], and removed with [Lab.Close].
func Bare() *Lab { return &Lab{} }

// Add makes a namespace that goes with the lab.
func (l *Lab) Add(name string) (*Namespace, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.namespace(name)
}

// Remove removes a namespace that [Lab.Add] made, before the lab is closed.
func (l *Lab) Remove(n *Namespace) error {
	l.mu.Lock()
	for i, each := range l.all {
		if each == n {
			l.all = append(l.all[:i:i], l.all[i+1:]...)
		}
	}
	l.mu.Unlock()
	return n.close()
}

// Join makes a veth pair: device aName in a, bName in b, both up.
func Join(a *Namespace, aName string, b *Namespace, bName string) error {
	return join(a, aName, b, bName)
}

// Address adds addresses to the device.
func (n *Namespace) Address(device string, addrs ...netip.Prefix) error {
	return n.address(device, addrs...)
}

// Route adds a route to the network: via the gateway, or straight out of the device when the
// gateway is the zero value.
func (n *Namespace) Route(to netip.Prefix, gateway netip.Addr, device string) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("in %s, finding %s: %w", n.name, device, err)
	}
	r := &netlink.Route{Dst: ipNet(to), LinkIndex: link.Attrs().Index}
	if gateway.IsValid() {
		r.Gw = gateway.AsSlice()
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.link.RouteAdd(r); err != nil {
		return fmt.Errorf("in %s, routing %v via %v %s: %w", n.name, to, gateway, device, err)
	}
	return nil
}

// Bridge makes a bridge of the namespace's devices.
func (n *Namespace) Bridge(name string, ports ...string) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := n.link.LinkAdd(bridge); err != nil {
		return fmt.Errorf("in %s, making the bridge %s: %w", n.name, name, err)
	}
	errs := []error{n.up(name)}
	for _, port := range ports {
		link, err := n.link.LinkByName(port)
		if err == nil {
			err = n.link.LinkSetMaster(link, bridge)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("in %s, adding %s to the bridge %s: %w", n.name, port, name, err))
		}
	}
	return errors.Join(errs...)
}

// NewBackend is a backend of a lab that the caller lays: it listens in the namespace, which must
// have the address, and the one of Addr6 if the caller sets that. It is the caller's to start and to stop.
func NewBackend(colour string, in *Namespace, at netip.AddrPort, udp bool) *Backend {
	return &Backend{Colour: colour, Addr: at, pods: in, udp: udp}
}

// OnPort is a backend at the same address that listens on another port, with the same colour.
func (b *Backend) OnPort(port uint16) *Backend {
	return NewBackend(b.Colour, b.pods, netip.AddrPortFrom(b.Addr.Addr(), port), b.udp)
}

// ClientSysctls let a namespace open thousands of connections a minute from one address.
func (n *Namespace) ClientSysctls() error { return n.clientSysctls() }

// Dummy makes a dummy device with the addresses.
func (n *Namespace) Dummy(name string, addrs ...netip.Prefix) error {
	if err := n.link.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("in %s, making the dummy device %s: %w", n.name, name, err)
	}
	return errors.Join(n.up(name), n.address(name, addrs...))
}

// Attach puts one pod behind its node as the ptp plug-in of CNI does: a veth pair (device at the
// node's end, eth0 at the pod's), a host route to the pod, and the gateway, an address of the node,
// as the pod's default. Each pod in a namespace of its own is what makes answers go back through the
// node, also between two pods of one node.
func Attach(node *Namespace, device string, pod *Namespace, addr, gateway netip.Addr) error {
	if err := join(node, device, pod, "eth0"); err != nil {
		return err
	}
	return AlsoAttach(node, device, pod, addr, gateway)
}

// AlsoAttach gives a pod that is attached a further address, say of the other family.
func AlsoAttach(node *Namespace, device string, pod *Namespace, addr, gateway netip.Addr) error {
	near, err := node.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("in %s, finding %s: %w", node.name, device, err)
	}
	far, err := pod.link.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("in %s, finding eth0: %w", pod.name, err)
	}
	// Not by ARP: the node's answer would hang on arp_ignore, which proxies set.
	neighbour := &netlink.Neigh{LinkIndex: far.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: gateway.AsSlice(), HardwareAddr: near.Attrs().HardwareAddr}
	toPod := &netlink.Route{Dst: ipNet(netip.PrefixFrom(addr, addr.BitLen())), LinkIndex: near.Attrs().Index,
		Scope: netlink.SCOPE_LINK, Src: gateway.AsSlice()}
	toNode := &netlink.Route{Dst: ipNet(netip.PrefixFrom(gateway, gateway.BitLen())), LinkIndex: far.Attrs().Index,
		Scope: netlink.SCOPE_LINK}
	err = errors.Join(
		pod.address("eth0", netip.PrefixFrom(addr, addr.BitLen())),
		pod.link.NeighSet(neighbour),
		pod.link.RouteAdd(toNode),
		pod.route(gateway),
		node.link.RouteAdd(toPod))
	if err != nil {
		return fmt.Errorf("attaching %s (%v) to %s: %w", pod.name, addr, node.name, err)
	}
	return nil
}

// Unlink removes the device at once; with a namespace it would go some time later.
func (n *Namespace) Unlink(device string) error {
	link, err := n.link.LinkByName(device)
	if err == nil {
		err = n.link.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("in %s, removing %s: %w", n.name, device, err)
	}
	return nil
}
