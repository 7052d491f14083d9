package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	moby "github.com/moby/ipvs"
	"golang.org/x/sys/unix"
)

// typeMask takes the flags off an attribute's type (NLA_TYPE_MASK, linux/netlink.h).
const typeMask = 0x3fff

// errMalformed is an answer that does not parse.
var errMalformed = errors.New("malformed netlink message")

// attrs walks over attributes in place. The value of the present one is only valid until the next
// receive. A length that does not fit ends the walk and is kept in bad.
type attrs struct {
	rest  []byte
	kind  uint16
	value []byte
	bad   bool
}

func (a *attrs) next() bool {
	if len(a.rest) < unix.SizeofRtAttr {
		return false
	}
	size := int(native.Uint16(a.rest))
	if size < unix.SizeofRtAttr || size > len(a.rest) {
		a.bad = true
		return false
	}
	a.kind = native.Uint16(a.rest[2:]) & typeMask
	a.value = a.rest[unix.SizeofRtAttr:size]
	a.rest = a.rest[min((size+3)&^3, len(a.rest)):]
	return true
}

func (a *attrs) u8() uint8 {
	if len(a.value) < 1 {
		a.bad = true
		return 0
	}
	return a.value[0]
}

func (a *attrs) u16() uint16 {
	if len(a.value) < 2 {
		a.bad = true
		return 0
	}
	return native.Uint16(a.value)
}

func (a *attrs) be16() uint16 {
	if len(a.value) < 2 {
		a.bad = true
		return 0
	}
	return binary.BigEndian.Uint16(a.value)
}

func (a *attrs) u32() uint32 {
	if len(a.value) < 4 {
		a.bad = true
		return 0
	}
	return native.Uint32(a.value)
}

// number is an unsigned integer of 4 or 8 bytes: the statistics come in both.
func (a *attrs) number() uint64 {
	if len(a.value) >= 8 {
		return native.Uint64(a.value)
	}
	return uint64(a.u32())
}

// text is a string without its NUL, as a view of the buffer.
func (a *attrs) text() []byte {
	for i, c := range a.value {
		if c == 0 {
			return a.value[:i]
		}
	}
	return a.value
}

// address reads an address of the family af from a value of 4 or 16 bytes; the kernel sends 16 for
// both families, the IPv4 address being the first four.
func address(value []byte, af uint16) (netip.Addr, bool) {
	switch {
	case af == unix.AF_INET && len(value) >= 4:
		return netip.AddrFrom4([4]byte(value)), true
	case af == unix.AF_INET6 && len(value) >= 16:
		return netip.AddrFrom16([16]byte(value)).Unmap(), true
	}
	return netip.Addr{}, false
}

// names holds the strings that nearly every service has, so that reading them does not allocate.
var names = func() map[string]string {
	m := map[string]string{"none": "none", "mh": "mh", "sed": "sed", "nq": "nq", "lblc": "lblc", "lblcr": "lblcr", "fo": "fo", "ovf": "ovf", "sip": "sip"}
	for _, n := range []string{moby.RoundRobin, moby.LeastConnection, moby.DestinationHashing, moby.SourceHashing, moby.WeightedRoundRobin, moby.WeightedLeastConnection} {
		m[n] = n
	}
	return m
}()

func intern(b []byte) string {
	if s, ok := names[string(b)]; ok {
		return s
	}
	return string(b)
}

// nested gives the value of the first attribute of that kind in the message's payload.
func nested(payload []byte, kind uint16) ([]byte, error) {
	a := attrs{rest: payload}
	for a.next() {
		if a.kind == kind {
			return a.value, nil
		}
	}
	return nil, fmt.Errorf("%w: no attribute %d", errMalformed, kind)
}

// parseService reads the payload of an IPVS_CMD_NEW_SERVICE message and normalises it: without the
// kernel's own flag, and with what has no meaning without persistence at its resting value, so that
// a service that does the same compares equal.
func parseService(payload []byte, into *ServiceInfo) error {
	value, err := nested(payload, attrService)
	if err != nil {
		return err
	}
	*into = ServiceInfo{}
	s := &into.Service
	var af uint16
	var addr, mask []byte
	var wide bool
	a := attrs{rest: value}
	for a.next() {
		switch a.kind {
		case svcAF:
			af = a.u16()
		case svcProtocol:
			s.Protocol = Protocol(a.u16())
		case svcAddr:
			addr = a.value
		case svcPort:
			s.Port = a.be16()
		case svcMark:
			s.Mark = a.u32()
		case svcScheduler:
			s.Scheduler = intern(a.text())
		case svcFlags:
			s.Flags = ServiceFlags(a.u32() &^ flagHashed)
		case svcTimeout:
			s.Timeout = a.u32()
		case svcNetmask:
			mask = a.value
		case svcPE:
			s.PersistenceEngine = intern(a.text())
		case svcStats:
			if !wide {
				a.bad = !parseCounters(a.value, &into.Counters) || a.bad
			}
		case svcStats64:
			wide = true
			a.bad = !parseCounters(a.value, &into.Counters) || a.bad
		}
	}
	full := uint32(math.MaxUint32)
	if af == unix.AF_INET6 {
		full = 128
	}
	switch {
	case s.Flags&Persistent == 0:
		s.Timeout, s.Netmask = 0, full
	case len(mask) < 4:
		a.bad = true
	case af == unix.AF_INET:
		s.Netmask = binary.BigEndian.Uint32(mask)
	default:
		s.Netmask = native.Uint32(mask)
	}
	ok := true
	if s.Mark != 0 {
		s.Protocol, s.Port = 0, 0
		addr = make([]byte, 16) // stays on the stack
	}
	s.Addr, ok = address(addr, af)
	if a.bad || !ok || s.Scheduler == "" {
		return fmt.Errorf("%w: virtual server", errMalformed)
	}
	return nil
}

// parseReal reads the payload of an IPVS_CMD_NEW_DEST message of a service whose family is af:
// kernels before 3.18 do not send the real server's own. Without counted its counters are left.
func parseReal(payload []byte, af uint16, counted bool, into *RealInfo) error {
	value, err := nested(payload, attrDest)
	if err != nil {
		return err
	}
	*into = RealInfo{}
	r := &into.RealServer
	var addr []byte
	var wide bool
	a := attrs{rest: value}
	for a.next() {
		switch a.kind {
		case destAF:
			af = a.u16()
		case destAddr:
			addr = a.value
		case destPort:
			r.Port = a.be16()
		case destForward:
			r.Forwarding = Forwarding(a.u32() & moby.ConnFwdMask)
		case destWeight:
			r.Weight = a.u32()
		case destUpper:
			r.Upper = a.u32()
		case destLower:
			r.Lower = a.u32()
		case destActive:
			into.Active = a.u32()
		case destInactive:
			into.Inactive = a.u32()
		case destPersistent:
			into.Persistent = a.u32()
		case destTunType:
			r.TunnelType = TunnelType(a.u8())
		case destTunPort:
			r.TunnelPort = a.be16()
		case destTunFlags:
			r.TunnelFlags = a.u16()
		case destStats:
			if counted && !wide {
				a.bad = !parseCounters(a.value, into.counters()) || a.bad
			}
		case destStats64:
			if counted {
				wide = true
				a.bad = !parseCounters(a.value, into.counters()) || a.bad
			}
		}
	}
	var ok bool
	r.Addr, ok = address(addr, af)
	if a.bad || !ok {
		return fmt.Errorf("%w: real server", errMalformed)
	}
	return nil
}

func (r *RealInfo) counters() *Counters {
	if r.Counters == nil {
		r.Counters = &Counters{}
	}
	return r.Counters
}

// parseCounters reads IPVS_STATS_ATTR_*, of either width.
func parseCounters(value []byte, c *Counters) bool {
	*c = Counters{}
	fields := [...]*uint64{
		1: &c.Conns, 2: &c.InPackets, 3: &c.OutPackets, 4: &c.InBytes, 5: &c.OutBytes,
		6: &c.ConnRate, 7: &c.InPacketRate, 8: &c.OutPacketRate, 9: &c.InByteRate, 10: &c.OutByteRate,
	}
	a := attrs{rest: value}
	for a.next() {
		if 0 < a.kind && int(a.kind) < len(fields) {
			*fields[a.kind] = a.number()
		}
	}
	return !a.bad
}
