package ipvs

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Generic netlink family and commands (IPVS_GENL_*, IPVS_CMD_*, linux/ip_vs.h).
const (
	genlName    = "IPVS"
	genlVersion = 1

	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8
	cmdNewDaemon  = 9
	cmdGetDaemon  = 11
	cmdSetConfig  = 12
	cmdGetConfig  = 13
	cmdSetInfo    = 14
	cmdGetInfo    = 15
)

// Attributes of the first level (IPVS_CMD_ATTR_*).
const (
	attrService       = 1
	attrDest          = 2
	attrDaemon        = 3
	attrTimeoutTCP    = 4
	attrTimeoutTCPFin = 5
	attrTimeoutUDP    = 6
)

// Attributes of a service (IPVS_SVC_ATTR_*).
const (
	svcAF        = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcMark      = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9
	svcStats     = 10
	svcPE        = 11
	svcStats64   = 12
)

// Attributes of a destination, the kernel's word for a real server (IPVS_DEST_ATTR_*).
const (
	destAddr       = 1
	destPort       = 2
	destForward    = 3
	destWeight     = 4
	destUpper      = 5
	destLower      = 6
	destActive     = 7
	destInactive   = 8
	destPersistent = 9
	destStats      = 10
	destAF         = 11
	destStats64    = 12
	destTunType    = 13
	destTunPort    = 14
	destTunFlags   = 15
)

// Attributes of general information and of a sync daemon (IPVS_INFO_ATTR_*, IPVS_DAEMON_ATTR_*).
const (
	infoVersion  = 1
	infoConnSize = 2

	daemonState     = 1
	daemonInterface = 2
	daemonSyncID    = 3
	daemonMaxLen    = 4
	daemonGroup     = 5
	daemonGroup6    = 6
	daemonPort      = 7
	daemonTTL       = 8
)

// flagHashed is IP_VS_SVC_F_HASHED: the kernel sets it on every service that it lists.
const flagHashed = 0x02

// nameMax is the longest name of a scheduler or persistence engine, in bytes
// (IP_VS_SCHEDNAME_MAXLEN and IP_VS_PENAME_MAXLEN, less the NUL).
const nameMax = 15

var native = binary.NativeEndian

// The writer appends to one buffer. A header is begun with a length of 0, which end fills in.

func beginMessage(b []byte, kind uint16, flags uint16, seq uint32, cmd uint8, version uint8) []byte {
	b = native.AppendUint32(b, 0)
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0)
	return append(b, cmd, version, 0, 0)
}

// endMessage fills in the length of the message that begins at start. All that is appended to it
// is padded to four bytes already.
func endMessage(b []byte, start int) { native.PutUint32(b[start:], uint32(len(b)-start)) }

func beginNest(b []byte, kind uint16) []byte {
	b = native.AppendUint16(b, 0)
	return native.AppendUint16(b, kind)
}

func endNest(b []byte, start int) { native.PutUint16(b[start:], uint16(len(b)-start)) }

func attrHeader(b []byte, kind uint16, size int) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+size))
	return native.AppendUint16(b, kind)
}

func appendU8(b []byte, kind uint16, v uint8) []byte {
	return append(attrHeader(b, kind, 1), v, 0, 0, 0)
}

func appendU16(b []byte, kind uint16, v uint16) []byte {
	return append(native.AppendUint16(attrHeader(b, kind, 2), v), 0, 0)
}

func appendBE16(b []byte, kind uint16, v uint16) []byte {
	return append(binary.BigEndian.AppendUint16(attrHeader(b, kind, 2), v), 0, 0)
}

func appendU32(b []byte, kind uint16, v uint32) []byte {
	return native.AppendUint32(attrHeader(b, kind, 4), v)
}

func appendAddr(b []byte, kind uint16, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(attrHeader(b, kind, len(v)), v[:]...)
	}
	v := a.As16()
	return append(attrHeader(b, kind, len(v)), v[:]...)
}

// appendString writes s with its NUL.
func appendString(b []byte, kind uint16, s string) []byte {
	b = append(attrHeader(b, kind, len(s)+1), s...)
	b = append(b, 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func family(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendKey writes what identifies a service; the nest is left open.
func appendKey(b []byte, k *Key) []byte {
	b = beginNest(b, attrService)
	b = appendU16(b, svcAF, family(k.Addr))
	if k.Mark != 0 {
		return appendU32(b, svcMark, k.Mark)
	}
	b = appendU16(b, svcProtocol, uint16(k.Protocol))
	b = appendAddr(b, svcAddr, k.Addr)
	return appendBE16(b, svcPort, k.Port)
}

// appendService writes a whole service; the nest is left open.
func appendService(b []byte, s *Service) []byte {
	b = appendKey(b, &s.Key)
	b = appendString(b, svcScheduler, s.Scheduler)
	if s.PersistenceEngine != "" {
		b = appendString(b, svcPE, s.PersistenceEngine)
	}
	// struct ip_vs_flags: the flags, then which of them are meant. All but the kernel's own are, so
	// that an edit takes away the flags that are not asked for.
	b = attrHeader(b, svcFlags, 8)
	b = native.AppendUint32(b, uint32(s.Flags))
	b = native.AppendUint32(b, math.MaxUint32&^uint32(flagHashed))
	b = appendU32(b, svcTimeout, s.Timeout)
	if s.Addr.Is4() { // a mask in network order
		return binary.BigEndian.AppendUint32(attrHeader(b, svcNetmask, 4), s.Netmask)
	}
	return appendU32(b, svcNetmask, s.Netmask) // a prefix length, a plain number
}

// appendRealKey writes what identifies a real server; the nest is left open.
func appendRealKey(b []byte, k *RealKey) []byte {
	b = beginNest(b, attrDest)
	b = appendAddr(b, destAddr, k.Addr)
	b = appendBE16(b, destPort, k.Port)
	return appendU16(b, destAF, family(k.Addr))
}

// appendReal writes a whole real server; the nest is left open.
func appendReal(b []byte, r *RealServer) []byte {
	b = appendRealKey(b, &r.RealKey)
	b = appendU32(b, destForward, uint32(r.Forwarding))
	b = appendU32(b, destWeight, r.Weight)
	b = appendU32(b, destUpper, r.Upper)
	b = appendU32(b, destLower, r.Lower)
	if r.Forwarding == Tunnel { // they are 0 otherwise, and kernels before 5.3 do not know them
		b = appendU8(b, destTunType, uint8(r.TunnelType))
		b = appendBE16(b, destTunPort, r.TunnelPort)
		b = appendU16(b, destTunFlags, r.TunnelFlags)
	}
	return b
}

var verbCommands = [...]uint8{
	AddService: cmdNewService, EditService: cmdSetService, DelService: cmdDelService,
	AddReal: cmdNewDest, EditReal: cmdSetDest, DelReal: cmdDelDest,
}

// opMax is more than the longest message of an op, in bytes: the headers are 20, a service with
// everything 132, a real server with everything 104.
const opMax = 512

// appendOp writes one op as one message. Without NLM_F_ACK the kernel answers only if it fails.
func appendOp(b []byte, genlID uint16, seq uint32, op *Op) []byte {
	start := len(b)
	b = beginMessage(b, genlID, unix.NLM_F_REQUEST, seq, verbCommands[op.Verb], genlVersion)
	nest := len(b)
	if op.Verb == AddService || op.Verb == EditService {
		b = appendService(b, &op.Service)
	} else {
		b = appendKey(b, &op.Service.Key)
	}
	endNest(b, nest)
	nest = len(b)
	switch op.Verb {
	case AddReal, EditReal:
		b = appendReal(b, &op.Real)
		endNest(b, nest)
	case DelReal:
		b = appendRealKey(b, &op.Real.RealKey)
		endNest(b, nest)
	}
	endMessage(b, start)
	return b
}

// appendFamilyRequest asks nlctrl for the number of the family "IPVS".
func appendFamilyRequest(b []byte, seq uint32) []byte {
	start := len(b)
	b = beginMessage(b, nl.GENL_ID_CTRL, unix.NLM_F_REQUEST, seq, nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION)
	b = appendString(b, nl.GENL_CTRL_ATTR_FAMILY_NAME, genlName)
	endMessage(b, start)
	return b
}
