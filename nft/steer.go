package nft

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Steer puts the packets of one virtual server's address onto a mark, whatever state their connection is in:
// those from outside and from pods, and those of the node's own processes. IPVS looks for a virtual server by
// mark before it looks for one by address, and for a connection that it knows before either. So a new connection goes
// where the mark's virtual server sends it, and an established one stays where it is.
//
// The whole of the packet's mark is overwritten, whatever another program had put into it, since IPVS compares all
// 32 bits; and a program that changes a bit of it between our chains and IPVS's hooks undoes the steering.
type Steer struct {
	Endpoint              // protocol, address and port as the client sent them
	Source   netip.Prefix // clients; the zero Prefix: every client. Same family as Addr
	Mark     uint32       // never 0
}

// String is the rule in nft's language: "ip daddr 192.0.2.10 tcp dport 30080 meta mark set 0x00000001 accept".
func (s Steer) String() string {
	s = s.canonical()
	ip, source := familyOf(s.Addr).ip(), ""
	if s.Source.IsValid() {
		source = fmt.Sprintf("%s saddr %s ", ip, s.Source)
	}
	return fmt.Sprintf("%s%s daddr %s %s dport %d meta mark set 0x%08x accept",
		source, ip, s.Addr, protocolName(s.Protocol), s.Port, s.Mark)
}

// canonical has no bits in Source behind its length, and of the two ways to say every client the zero Prefix.
func (s Steer) canonical() Steer {
	s.Source = s.Source.Masked()
	if s.Source.Bits() == 0 {
		s.Source = netip.Prefix{}
	}
	return s
}

func canonicalSteering(in []Steer) []Steer {
	out := slices.Clone(in)
	for i := range out {
		out[i] = out[i].canonical()
	}
	return out
}

func (s Steer) validate() error {
	name := fmt.Sprintf("steering of %s", s.Endpoint)
	switch {
	case !slices.ContainsFunc(protocolKeys, func(key []byte) bool { return key[0] == s.Protocol }):
		return fmt.Errorf("%s: protocol %d has no ports that IPVS knows: want 6 (TCP), 17 (UDP) or 132 (SCTP)", name, s.Protocol)
	case !expressible(s.Addr):
		return fmt.Errorf("%s: want an IPv4 or IPv6 address without a zone", name)
	case s.Port == 0:
		return fmt.Errorf("%s: port 0 is sent by nobody: want 1-65535", name)
	case s.Mark == 0:
		return fmt.Errorf("%s: mark 0 is that of every packet without one: want another", name)
	case s.Source == netip.Prefix{}:
		return nil
	case !s.Source.IsValid() || s.Source.Addr().Is4In6() || s.Source.Addr().Is4() != s.Addr.Is4():
		return fmt.Errorf("%s: source %s: want a prefix of the address's family, or none for every client", name, s.Source)
	}
	return nil
}

// exprs are the rule as the kernel runs it and as nft makes it of String. They compare and look nothing up: a chain's
// rules change with the generation, all at once, and a set's elements could be missed for an instant.
func (s Steer) exprs() []expr.Any {
	s = s.canonical()
	f := familyOf(s.Addr)
	_, destination := f.addresses()
	equal := func(data ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: data} }
	out := f.guard()
	if s.Source.IsValid() {
		out = append(out, compareSource(expr.CmpOpEq, s.Source)...)
	}
	return append(out,
		payload(destination, uint32(f.bytes())), equal(s.Addr.AsSlice()...),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, equal(s.Protocol),
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2},
		equal(byte(s.Port>>8), byte(s.Port)),
		&expr.Immediate{Register: reg0, Data: binaryutil.NativeEndian.PutUint32(s.Mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg0},
		&expr.Verdict{Kind: expr.VerdictAccept})
}

// destinationPort is where TCP, UDP and SCTP have it.
const destinationPort = 2

// steerOf is the inverse of exprs; false for a rule that exprs does not make.
func steerOf(exprs []expr.Any) (Steer, bool) {
	var s Steer
	var field expr.Any // what the register holds
	bits := 0          // how much of it the next comparison is with
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Payload:
			field, bits = e, int(e.Len)*8
		case *expr.Meta:
			field = e
		case *expr.Bitwise:
			bits = ones(e.Mask)
		case *expr.Immediate:
			if len(e.Data) == 4 {
				s.Mark = binaryutil.NativeEndian.Uint32(e.Data)
			}
		case *expr.Cmp:
			s.learn(field, bits, e.Data)
		}
	}
	// What was not understood, or is in another order, shows here.
	return s, s.validate() == nil && reflect.DeepEqual(s.exprs(), exprs)
}

// learn takes the field that the rule compares with data, if it is one of Steer's.
func (s *Steer) learn(field expr.Any, bits int, data []byte) {
	switch field := field.(type) {
	case *expr.Meta:
		if field.Key == expr.MetaKeyL4PROTO && len(data) == 1 {
			s.Protocol = data[0]
		}
	case *expr.Payload:
		if field.Base == expr.PayloadBaseTransportHeader {
			if len(data) == 2 {
				s.Port = uint16(data[0])<<8 | uint16(data[1])
			}
			return
		}
		for _, f := range []family{ipv4, ipv6} {
			source, destination := f.addresses()
			if field.Offset != source && field.Offset != destination || len(data) > f.bytes() {
				continue
			}
			a := f.padded(data)
			if field.Offset == source {
				s.Source = netip.PrefixFrom(a, bits)
			} else {
				s.Addr = a
			}
		}
	}
}

// steeringRules are the rules of each of the two chains.
func (r Ruleset) steeringRules() []Rule {
	var out []Rule
	for _, s := range canonicalSteering(r.Steering) {
		out = append(out, Rule{kind: steered, family: familyOf(s.Addr), steer: s})
	}
	return out
}

// steeringOps replace the chains' rules, all of them: so a packet meets the one list or the other. The chains are
// there only while they have rules; nothing is in the packets' way at rest.
func steeringOps(want, have Ruleset) []Op {
	if slices.Equal(canonicalSteering(want.Steering), canonicalSteering(have.Steering)) {
		return nil
	}
	first := FlushChain
	if len(have.Steering) == 0 {
		first = AddChain
	}
	var ops []Op
	for _, name := range steeringChains {
		ops = append(ops, Op{Verb: first, Chain: name})
	}
	for _, name := range steeringChains {
		if len(want.Steering) == 0 {
			ops = append(ops, Op{Verb: DelChain, Chain: name})
		}
		ops = append(ops, ruleOps(name, want.steeringRules())...)
	}
	return ops
}

// changesSteering is whether packets may be steered in another way when the ops are done.
func changesSteering(ops []Op) bool {
	return slices.ContainsFunc(ops, func(o Op) bool {
		return o.Verb == DelTable || slices.Contains(steeringChains, o.Chain)
	})
}
