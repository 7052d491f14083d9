// Package nft is our one nftables table, `table inet pointsman`, as a comparable value: it gives what IPVS
// forwards the node's address as its source, where it needs that, and nowhere else; and it puts what is for a virtual
// server's address onto a mark, so that IPVS sends it to the virtual server of that mark instead.
//
// It is not a firewall and not a load balancer: it drops nothing, and translates no destination. It knows no
// Service and no colour; whoever calls it says which addresses are virtual, whose clients are masqueraded, and what is
// steered.
//
// IPVS does the destination's translation, so a rule can't ask the packet where its client sent it. With
// net.ipv4.vs.conntrack=1 the connection's entry can be asked: its original direction has the virtual
// server's address and port. They are looked up, all in one key, in a set; so a packet costs the same
// with one virtual server as with thousands, and only the first of a connection comes here at all.
//
// Steering stands before IPVS, where the packet still has what its client sent. It is a list of rules in two chains,
// one for what comes to the node and one for what starts on it, which every packet to a local address walks: for the
// length of a cut-over. While there is nothing to steer the chains are not there.
//
// A caller may rely on this: every change is one transaction of the kernel, so traffic never sees half of
// one, and when Steering was among it no packet is under way by the old rules once [Conn.Commit] returns; what is
// read is compared with what Apply makes down to each rule's expressions; tables of others are never written, and
// nothing is when ours is right. Connections that are there keep the source and the real server that they have,
// whatever changes.
//
// To look inside when it misbehaves: `nft list table inet pointsman`, `nft monitor trace`, `conntrack -L`, and
// [State.Why].
package nft
