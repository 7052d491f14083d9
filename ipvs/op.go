package ipvs

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String names the virtual server as ipvsadm's listing does: "TCP 192.0.2.1:30080", "FWM 7", "FWM 7 IPv6".
func (k Key) String() string {
	if k.Mark != 0 {
		if k.Addr.Is6() {
			return fmt.Sprintf("FWM %d IPv6", k.Mark)
		}
		return fmt.Sprintf("FWM %d", k.Mark)
	}
	return k.Protocol.String() + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// String is address:port.
func (k RealKey) String() string { return netip.AddrPortFrom(k.Addr, k.Port).String() }

// String is the virtual server and its settings as ipvsadm takes them: "TCP 192.0.2.1:30080 -s rr".
func (s Service) String() string { return s.Key.String() + " " + strings.Join(s.arguments(), " ") }

// String is the real server and its settings as ipvsadm takes them: "10.244.140.76:80 -m -w 1".
func (r RealServer) String() string {
	return r.RealKey.String() + " " + strings.Join(r.arguments(), " ")
}

// String is the name that ipvsadm takes after --tun-type.
func (t TunnelType) String() string {
	switch t {
	case IPIP:
		return "ipip"
	case GUE:
		return "gue"
	case GRE:
		return "gre"
	}
	return fmt.Sprintf("TunnelType(%d)", uint8(t))
}

// String is what ipvsadm calls its listing's Forward: Masq, Local, Tunnel, Route. It has no name for Bypass.
func (f Forwarding) String() string {
	switch f {
	case Masquerade:
		return "Masq"
	case Local:
		return "Local"
	case Tunnel:
		return "Tunnel"
	case Direct:
		return "Route"
	case Bypass:
		return "Bypass"
	}
	return fmt.Sprintf("Forwarding(%d)", uint32(f))
}

// SchedulerFlags names the scheduler's own flags as ipvsadm's -b takes them and its listing shows them,
// with commas between: "sh-fallback,sh-port". It is empty when there are none, and for a flag of sh or
// mh that has no name.
func (s Service) SchedulerFlags() string {
	names := [3]string{"flag-1", "flag-2", "flag-3"}
	if s.Scheduler == "sh" || s.Scheduler == "mh" {
		names = [3]string{s.Scheduler + "-fallback", s.Scheduler + "-port", ""}
	}
	var list []string
	for i, flag := range [3]ServiceFlags{Sched1, Sched2, Sched3} {
		if s.Flags&flag != 0 && names[i] != "" {
			list = append(list, names[i])
		}
	}
	return strings.Join(list, ",")
}

// String is the ipvsadm command that does the same. Where ipvsadm is narrower than the kernel (a
// weight above 65535, a one-packet TCP service, the third flag of sh and mh) it says what is meant,
// and ipvsadm would refuse it.
func (op Op) String() string { return strings.Join(op.Command(), " ") }

// Command is String as the arguments of an execve, the program's name included.
func (op Op) Command() []string {
	letters := [...]string{AddService: "-A", EditService: "-E", DelService: "-D", AddReal: "-a", EditReal: "-e", DelReal: "-d"}
	if int(op.Verb) >= len(letters) {
		return []string{"ipvsadm", fmt.Sprintf("Verb(%d)", op.Verb)}
	}
	args := append([]string{"ipvsadm", letters[op.Verb]}, op.Service.Key.arguments()...)
	switch op.Verb {
	case AddService, EditService:
		args = append(args, op.Service.arguments()...)
	case AddReal, EditReal:
		args = append(args, "-r", op.Real.RealKey.String())
		args = append(args, op.Real.arguments()...)
	case DelReal:
		args = append(args, "-r", op.Real.RealKey.String())
	}
	return args
}

func (k Key) arguments() []string {
	if k.Mark != 0 {
		args := []string{"-f", strconv.FormatUint(uint64(k.Mark), 10)}
		if k.Addr.Is6() {
			args = append(args, "-6")
		}
		return args
	}
	option := map[Protocol]string{TCP: "-t", UDP: "-u", SCTP: "--sctp-service"}[k.Protocol]
	if option == "" {
		option = k.Protocol.String()
	}
	return []string{option, netip.AddrPortFrom(k.Addr, k.Port).String()}
}

func (s Service) arguments() []string {
	args := []string{"-s", s.Scheduler}
	if s.Flags&Persistent != 0 {
		args = append(args, "-p", strconv.FormatUint(uint64(s.Timeout), 10))
		if mask := s.MaskText(); mask != "" {
			args = append(args, "-M", mask)
		}
	}
	if s.PersistenceEngine != "" {
		args = append(args, "--pe", s.PersistenceEngine)
	}
	if s.Flags&OnePacket != 0 {
		args = append(args, "-o")
	}
	if flags := s.SchedulerFlags(); flags != "" {
		args = append(args, "-b", flags)
	}
	return args
}

// MaskText is the persistence mask as ipvsadm's -M takes it and its listing shows it ("255.255.255.0",
// for IPv6 "64"); "" for the full one.
func (s Service) MaskText() string {
	switch {
	case s.Addr.Is6() && s.Netmask != 128:
		return strconv.FormatUint(uint64(s.Netmask), 10)
	case s.Addr.Is4() && s.Netmask != 0xffffffff:
		m := s.Netmask
		return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
	}
	return ""
}

func (r RealServer) arguments() []string {
	var args []string
	switch r.Forwarding {
	case Masquerade:
		args = append(args, "-m")
	case Tunnel:
		args = append(args, "-i", "--tun-type", r.TunnelType.String())
		if r.TunnelType == GUE {
			args = append(args, "--tun-port", strconv.Itoa(int(r.TunnelPort)))
		}
		if r.TunnelType != IPIP {
			args = append(args, map[uint16]string{
				0: "--tun-nocsum", tunnelChecksum: "--tun-csum", tunnelRemoteChecksum: "--tun-remcsum",
			}[r.TunnelFlags])
		}
	default:
		args = append(args, "-g")
	}
	args = append(args, "-w", strconv.FormatUint(uint64(r.Weight), 10))
	if r.Upper != 0 {
		args = append(args, "-x", strconv.FormatUint(uint64(r.Upper), 10))
	}
	if r.Lower != 0 {
		args = append(args, "-y", strconv.FormatUint(uint64(r.Lower), 10))
	}
	return args
}
