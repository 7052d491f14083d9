// Package node is the node around IPVS: the kernel modules and sysctls that it needs, the dummy device
// that holds virtual addresses, the node's own addresses, and what else is on the node that would get
// in its way.
//
// It is not a network manager. It touches one device, of its own name ([DeviceName]), the sysctls of
// [Sysctls] and nothing else, and it looks no Service or Pod up: which addresses are virtual is told to it.
//
// A caller may rely on this: whatever is here is checked by reading it back from the kernel, each call
// for itself, and only what differs is written; a node that is right is not written to. A [Node] belongs to
// the network namespace of the thread that opened it, whichever thread calls its methods.
//
// An address on the dummy device makes the whole node answer for it: the kernel replies to ARP for it on
// every other link (arp_ignore=0), so on a shared segment a virtual address that another machine also
// holds needs arp_ignore=1 and arp_announce=2, which are the operator's to set; IPv6 does not answer on
// other links. And every port of the node that listens on all addresses can be reached at it.
//
// To look inside when it misbehaves: `ip addr show dev pointsman0`, `sysctl net.ipv4.vs`, `ip monitor address`.
package node
