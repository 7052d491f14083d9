package node

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// notOurs are devices whose addresses are virtual themselves, so no node port is served there.
var notOurs = []string{
	DeviceName,
	kubeProxyDevice,
	"nodelocaldns", // NodeLocal DNSCache's: the DNS Service's ClusterIP
}

// Addresses are the node's own addresses, at which it serves node ports, sorted: every unicast address of
// global scope (private ones are that too) on an interface that is up, secondary ones and those that
// another program moves between nodes included. Left out are the loopback's, those of devices that hold virtual
// addresses, and of IPv6 the ones that are still being checked for duplicates or failed that, which take
// no packet yet (the end of the check is a change, so they follow at once), and temporary ones (RFC 8981), which
// are for connecting from. A deprecated one stays: who knows it may use it.
func (n *Node) Addresses() ([]netip.Addr, error) {
	r, err := n.read()
	if err != nil {
		return nil, fmt.Errorf("listing the node's addresses: %w", err)
	}
	return r.addresses, nil
}

// list reads interfaces and addresses, once more when they changed under it.
func (n *Node) list() (links []netlink.Link, addrs []netlink.Addr, err error) {
	for range 10 {
		if links, err = n.link.LinkList(); err == nil {
			if addrs, err = n.link.AddrList(nil, netlink.FAMILY_ALL); err == nil {
				return links, addrs, nil
			}
		}
		if !interrupted(err) {
			break
		}
	}
	return nil, nil, err
}

func nodeAddresses(links []netlink.Link, addrs []netlink.Addr) []netip.Addr {
	serving := make(map[int]bool)
	for _, l := range links {
		a := l.Attrs()
		serving[a.Index] = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 && !slices.Contains(notOurs, a.Name)
	}
	var out []netip.Addr
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if !ok || !serving[a.LinkIndex] || a.Scope != unix.RT_SCOPE_UNIVERSE || !addr.IsGlobalUnicast() {
			continue
		}
		const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_TEMPORARY
		if addr.Is6() && a.Flags&unusable != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
			continue
		}
		out = append(out, addr)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
