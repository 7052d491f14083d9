package nft

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleKind is which of the table's rules.
type ruleKind uint8

const (
	always  ruleKind = iota // an original destination in masquerade4 or 6
	local                   // one in clusterip4 or 6, from the node itself
	outside                 // one in clusterip4 or 6, from none of the cluster's networks
	itself                  // a pod that reaches itself
	steered                 // a Steer: the only kind in the steering chains, and in none but them
)

// Rule is one rule of a chain.
type Rule struct {
	kind   ruleKind
	family family
	cidrs  []netip.Prefix // outside only: canonical, of the family, at least one
	steer  Steer          // steered only: canonical
}

// rules are the rules of the chain postrouting, in order. Their order decides nothing, since all end in the same
// verdict; it is the likely one first.
func (r Ruleset) rules() []Rule {
	var out []Rule
	cidrs := canonicalCIDRs(r.ClusterCIDRs)
	for _, f := range []family{ipv4, ipv6} {
		own := slices.DeleteFunc(slices.Clone(cidrs), func(p netip.Prefix) bool { return familyOf(p.Addr()) != f })
		out = append(out, Rule{kind: always, family: f}, Rule{kind: local, family: f})
		if len(own) > 0 {
			out = append(out, Rule{kind: outside, family: f, cidrs: own})
		}
		out = append(out, Rule{kind: itself, family: f})
	}
	return out
}

// set is the one that the rule looks its packets up in; one that steers has none.
func (r Rule) set() set {
	switch r.kind {
	case always:
		return sets[setName(Always.String(), r.family)]
	case itself:
		return sets[setName(hairpin, r.family)]
	}
	return sets[setName(ClusterIP.String(), r.family)]
}

func (r Rule) comment() string {
	return [...]string{
		always:  "node ports, external and load-balancer addresses",
		local:   "cluster addresses, from this node",
		outside: "cluster addresses, from outside the pod networks",
		itself:  "a pod that reaches itself",
		steered: "to the virtual server of this mark",
	}[r.kind]
}

// String is the rule in nft's language, without its comment.
func (r Rule) String() string {
	if r.kind == steered {
		return r.steer.String()
	}
	ip, version := r.family.ip(), "ipv4"
	if r.family == ipv6 {
		version = "ipv6"
	}
	var b strings.Builder
	if r.kind != outside { // there nft puts the same match before the source address
		fmt.Fprintf(&b, "meta nfproto %s ", version)
	}
	if r.kind == itself {
		fmt.Fprintf(&b, "%s saddr . %s daddr @%s ", ip, ip, r.set().name)
	} else {
		fmt.Fprintf(&b, "meta l4proto %s meta l4proto . ct original %s daddr . ct original proto-dst @%s ", protocols, ip, r.set().name)
	}
	switch r.kind {
	case local:
		b.WriteString("fib saddr type local ")
	case outside:
		for _, p := range r.cidrs {
			fmt.Fprintf(&b, "%s saddr != %s ", ip, p)
		}
	case itself:
		b.WriteString("fib saddr type != local ")
	}
	b.WriteString("masquerade fully-random")
	return b.String()
}

// protocols are those that have ports and that IPVS balances, as an anonymous set. The kernel has no need
// of this match. It is there for the nft program (seen with 1.0.6): only behind it does nft take `ct original proto-dst`
// in a concatenation, and without it an operator's `nft list ruleset > saved; nft -f saved` would fail.
const protocols = "{ tcp, udp, sctp }"

var protocolKeys = [][]byte{{unix.IPPROTO_TCP}, {unix.IPPROTO_UDP}, {unix.IPPROTO_SCTP}}

// Registers, by the numbers that the kernel lists them under (nft_dump_register of
// net/netfilter/nf_tables_api.c): 1 is the first sixteen bytes or the first four of them, and
// 8+n the n-th four bytes (NFT_REG32_00 and on). A concatenation lies in consecutive ones.
const (
	reg0 = unix.NFT_REG_1
	reg1 = unix.NFT_REG32_01
)

// exprs are the rule as the kernel runs it, exactly as the kernel gives it back, but that the anonymous
// set has its contents for a name. They are also what nft makes of String: a ruleset that an operator
// saved and loaded again is intact.
func (r Rule) exprs() []expr.Any {
	if r.kind == steered {
		return r.steer.exprs()
	}
	n := uint32(r.family.bytes())
	var out []expr.Any
	if r.kind != outside {
		out = append(out, r.family.guard()...)
	}
	if r.kind == itself {
		second := uint32(reg1)
		if r.family == ipv6 {
			second = unix.NFT_REG_2
		}
		saddr, daddr := r.family.addresses()
		out = append(out, payload(saddr, n), &expr.Payload{DestRegister: second, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: n})
	} else {
		// Of the other family's connections these keys match none.
		key := expr.CtKey(unix.NFT_CT_DST_IP)
		if r.family == ipv6 {
			key = unix.NFT_CT_DST_IP6
		}
		out = append(out,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
			&expr.Lookup{SourceRegister: reg0, SetName: protocols},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
			&expr.Ct{Key: key, Register: reg1},
			&expr.Ct{Key: expr.CtKeyPROTODST, Register: reg1 + n/4})
	}
	out = append(out, &expr.Lookup{SourceRegister: reg0, SetName: r.set().name})
	switch r.kind {
	case local:
		out = append(out, fromThisNode(expr.CmpOpEq)...)
	case itself:
		// An address of the node itself reaches itself with no help, over lo.
		out = append(out, fromThisNode(expr.CmpOpNeq)...)
	case outside:
		out = append(out, r.family.guard()...)
		for _, p := range r.cidrs {
			out = append(out, compareSource(expr.CmpOpNeq, p)...)
		}
	}
	// fully-random: two clients that race for one port would otherwise lose a packet.
	return append(out, &expr.Masq{FullyRandom: true})
}

// guard matches the family's packets: without it the header offsets would be read from the other family's too.
func (f family) guard() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{byte(f)}},
	}
}

// addresses are the offsets of source and destination in struct iphdr and struct ipv6hdr.
func (f family) addresses() (source, destination uint32) {
	if f == ipv4 {
		return 12, 16
	}
	return 8, 24
}

// padded is the address that begins with data, which is no longer than one, and has zeros behind it.
func (f family) padded(data []byte) netip.Addr {
	whole := make([]byte, f.bytes())
	copy(whole, data)
	addr, _ := netip.AddrFromSlice(whole)
	return addr
}

func payload(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// compareSource compares the packet's source with a masked prefix, as nft does: by whole bytes where it can.
func compareSource(op expr.CmpOp, p netip.Prefix) []expr.Any {
	source, _ := familyOf(p.Addr()).addresses()
	n := uint32(p.Addr().BitLen() / 8)
	if bits := p.Bits(); bits%8 == 0 && bits > 0 {
		whole := uint32(bits / 8)
		return []expr.Any{payload(source, whole), &expr.Cmp{Op: op, Register: reg0, Data: p.Addr().AsSlice()[:whole]}}
	}
	return []expr.Any{payload(source, n),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: n, Mask: mask(p), Xor: make([]byte, n)},
		&expr.Cmp{Op: op, Register: reg0, Data: p.Addr().AsSlice()}}
}

// fromThisNode compares with what the packet's source address is to the routing table.
func fromThisNode(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// cidrsOf are the networks that a rule with these expressions leaves alone: what rules made of
// a Ruleset's ClusterCIDRs. Whether all of the rule is right, comparing with exprs tells.
func cidrsOf(exprs []expr.Any) []netip.Prefix {
	var out []netip.Prefix
	f, length := family(0), 0
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Payload:
			f, length = 0, int(e.Len)*8
			switch {
			case e.Offset == 12 && e.Len <= 4:
				f = ipv4
			case e.Offset == 8 && e.Len <= 16:
				f = ipv6
			}
		case *expr.Bitwise:
			length = ones(e.Mask)
		case *expr.Cmp:
			if f == 0 || e.Op != expr.CmpOpNeq || len(e.Data) > f.bytes() {
				continue
			}
			if p := netip.PrefixFrom(f.padded(e.Data), length); p.IsValid() {
				out = append(out, p)
			}
			f = 0
		default:
			f = 0
		}
	}
	return out
}

func mask(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}

// ones is the inverse of mask.
func ones(mask []byte) int {
	n := 0
	for _, b := range mask {
		n += bits.LeadingZeros8(^b)
	}
	return n
}
