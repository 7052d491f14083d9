package ipvs

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// ErrInvalid is an op that is refused before it is sent, because the kernel would cut it, read it as
// something else, or keep what it never uses, so that it would not read back as it was asked for. The
// text names the field. What the kernel refuses by itself is left to it.
var ErrInvalid = errors.New("invalid")

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, field, fmt.Sprintf(format, args...))
}

// timeoutMax is the longest persistence timeout in seconds that ipvsadm takes (31 days). The kernel
// multiplies it by HZ, up to 1000, in 32 bits: beyond 49 days it would wrap around.
const timeoutMax = 31 * 24 * 60 * 60

// checkOp is ErrInvalid for an op that must not be sent.
func checkOp(op *Op) error {
	if err := checkKey(op.Service.Key); err != nil {
		return err
	}
	switch op.Verb {
	case AddService, EditService:
		return checkService(&op.Service)
	case AddReal, EditReal:
		return checkReal(&op.Service.Key, &op.Real)
	case DelReal:
		return checkAddr("Real.Addr", op.Real.Addr)
	case DelService:
		return nil
	}
	return invalid("Verb", "%d", op.Verb)
}

func checkAddr(field string, a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
		return invalid(field, "%v", a)
	}
	return nil
}

func checkKey(k Key) error {
	if err := checkAddr("Addr", k.Addr); err != nil {
		return err
	}
	if k.Mark != 0 {
		if k.Protocol != 0 || k.Port != 0 || !k.Addr.IsUnspecified() {
			return invalid("Mark", "%d with a protocol, address or port", k.Mark)
		}
		return nil
	}
	switch k.Protocol {
	case TCP, UDP, SCTP:
		return nil
	}
	return invalid("Protocol", "%d", k.Protocol)
}

func checkService(s *Service) error {
	for _, n := range []struct{ field, value string }{{"Scheduler", s.Scheduler}, {"PersistenceEngine", s.PersistenceEngine}} {
		if len(n.value) > nameMax || strings.ContainsRune(n.value, 0) {
			return invalid(n.field, "%q is not a name of at most %d bytes", n.value, nameMax)
		}
	}
	if s.Scheduler == "" {
		return invalid("Scheduler", "none given")
	}
	if extra := s.Flags &^ (Persistent | OnePacket | Sched1 | Sched2 | Sched3); extra != 0 {
		return invalid("Flags", "%#x", uint32(extra))
	}
	full := uint32(math.MaxUint32)
	if s.Addr.Is6() {
		full = 128
	}
	if s.Flags&Persistent == 0 {
		switch {
		case s.Timeout != 0:
			return invalid("Timeout", "%d without persistence", s.Timeout)
		case s.Netmask != full:
			return invalid("Netmask", "%#x without persistence, want %#x", s.Netmask, full)
		case s.Mark == 0 && s.Port == 0:
			return invalid("Port", "0 without persistence")
		}
		return nil
	}
	if s.Timeout == 0 || s.Timeout > timeoutMax {
		return invalid("Timeout", "%d s is not between 1 and %d", s.Timeout, timeoutMax)
	}
	if s.Addr.Is6() && (s.Netmask < 1 || s.Netmask > 128) {
		return invalid("Netmask", "%d is not a prefix length between 1 and 128", s.Netmask)
	}
	return nil
}

func checkReal(k *Key, r *RealServer) error {
	if err := checkAddr("Real.Addr", r.Addr); err != nil {
		return err
	}
	if r.Weight > math.MaxInt32 {
		return invalid("Weight", "%d is over %d", r.Weight, math.MaxInt32)
	}
	switch r.Forwarding {
	case Masquerade, Direct:
		if r.TunnelType != 0 || r.TunnelPort != 0 || r.TunnelFlags != 0 {
			return invalid("TunnelType", "tunnel fields without forwarding by tunnel")
		}
	case Tunnel:
		if err := checkTunnel(r); err != nil {
			return err
		}
	default:
		return invalid("Forwarding", "%d", r.Forwarding)
	}
	// Only masquerading rewrites the port.
	if k.Mark == 0 && r.Forwarding != Masquerade && r.Port != k.Port {
		return invalid("Real.Port", "%d is not the virtual server's %d, and only masquerading rewrites it", r.Port, k.Port)
	}
	return nil
}

// Flags of a tunnel (IP_VS_TUNNEL_ENCAP_FLAG_*).
const (
	tunnelChecksum       = 1
	tunnelRemoteChecksum = 2
)

func checkTunnel(r *RealServer) error {
	switch {
	case r.TunnelType > GRE:
		return invalid("TunnelType", "%d", r.TunnelType)
	case (r.TunnelType == GUE) != (r.TunnelPort != 0):
		return invalid("TunnelPort", "%d with tunnel type %v", r.TunnelPort, r.TunnelType)
	case r.TunnelFlags == 0:
	case r.TunnelFlags == tunnelChecksum && r.TunnelType != IPIP:
	case r.TunnelFlags == tunnelRemoteChecksum && r.TunnelType == GUE:
	default:
		return invalid("TunnelFlags", "%#x with tunnel type %v", r.TunnelFlags, r.TunnelType)
	}
	return nil
}
