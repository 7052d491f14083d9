package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// join makes a veth pair: device aName in a, bName in b, both up.
func join(a *Namespace, aName string, b *Namespace, bName string) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: aName})
	veth.PeerName, veth.PeerNamespace = bName, netlink.NsFd(b.handle)
	if err := a.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("joining %s (%s) and %s (%s): %w", a.name, aName, b.name, bName, err)
	}
	return errors.Join(a.up(aName), b.up(bName))
}

// up sets the device up.
func (n *Namespace) up(device string) error {
	link, err := n.link.LinkByName(device)
	if err == nil {
		err = n.link.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("in %s, setting %s up: %w", n.name, device, err)
	}
	return nil
}

// address adds addresses to the device.
func (n *Namespace) address(device string, addrs ...netip.Prefix) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("in %s, finding %s: %w", n.name, device, err)
	}
	for _, addr := range addrs {
		a := &netlink.Addr{IPNet: ipNet(addr)}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // at once, not after a second of asking around
		}
		if err := n.link.AddrAdd(link, a); err != nil {
			return fmt.Errorf("in %s, adding %v to %s: %w", n.name, addr, device, err)
		}
	}
	return nil
}

// route adds a default route via the gateway.
func (n *Namespace) route(gateway netip.Addr) error {
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if gateway.Is6() {
		everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if err := n.link.RouteAdd(&netlink.Route{Dst: ipNet(everything), Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("in %s, routing via %v: %w", n.name, gateway, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// nth is the address n after the network's own, with the network's length.
func nth(network netip.Prefix, n int) (netip.Prefix, error) {
	bytes := network.Masked().Addr().AsSlice()
	carry := n
	for i := len(bytes) - 1; i >= 0 && carry > 0; i-- {
		carry += int(bytes[i])
		bytes[i], carry = byte(carry), carry>>8
	}
	addr, _ := netip.AddrFromSlice(bytes)
	if carry > 0 || !network.Contains(addr) {
		return netip.Prefix{}, fmt.Errorf("the network %v has no address number %d", network, n)
	}
	return netip.PrefixFrom(addr, network.Bits()), nil
}
