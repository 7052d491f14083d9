// Package nft is our one nftables table, `table inet pointsman`, as a comparable value: it gives what IPVS
// forwards the node's address as its source, where it needs that, and nowhere else.
//
// It is not a firewall and not a load balancer: it drops nothing, and translates no destination. It knows no
// Service; whoever calls it says which addresses are virtual and whose clients are masqueraded.
//
// IPVS does the destination's translation, so a rule can't ask the packet where its client sent it. With
// net.ipv4.vs.conntrack=1 the connection's entry can be asked: its original direction has the virtual
// server's address and port. They are looked up, all in one key, in a set; so a packet costs the same
// with one virtual server as with thousands, and only the first of a connection comes here at all.
//
// A caller may rely on this: every change is one transaction of the kernel, so traffic never sees half of
// one; what is read is compared with what Apply makes down to each rule's expressions; tables of others
// are never written, and nothing is when ours is right. Connections that are there keep the source that
// they have, whatever changes. The table has room for more chains: what steers during a cut-over goes into
// chains of its own at the hooks input (below priority 98) and output (below -99), with this layout as it is.
//
// To look inside when it misbehaves: `nft list table inet pointsman`, `nft monitor`, `conntrack -L`, and
// [State.Why].
package nft
