package ipvsadm

import (
	"fmt"
	"strings"

	"github.com/pointsman/pointsman/ipvs"
)

// layout is which columns a listing has.
type layout int

const (
	plain layout = iota
	stats
	rate
	thresholds
	persistentConn
	tunInfo
)

func (o Options) layout() layout {
	for _, l := range []struct {
		set    bool
		layout layout
	}{
		{o.Stats, stats}, {o.Rate, rate}, {o.Thresholds, thresholds}, {o.PersistentConn, persistentConn}, {o.TunInfo, tunInfo},
	} {
		if l.set {
			return l.layout
		}
	}
	return plain
}

// title is the two lines above the rows.
func (l layout) title() string {
	const local, remote = "Prot LocalAddress:Port", "  -> RemoteAddress:Port"
	right := func(words string) string {
		line := fmt.Sprintf("%-33s", local)
		for _, w := range strings.Fields(words) {
			line += fmt.Sprintf(" %8s", w)
		}
		return line + "\n" + remote
	}
	switch l {
	case stats:
		return right("Conns InPkts OutPkts InBytes OutBytes")
	case rate:
		return right("CPS InPPS OutPPS InBPS OutBPS")
	case thresholds:
		return fmt.Sprintf("%-33s %-10s %-10s %-10s %-10s\n%s", local, "Uthreshold", "Lthreshold", "ActiveConn", "InActConn", remote)
	case persistentConn:
		return fmt.Sprintf("%-33s %-9s %-11s %-10s %-10s\n%s", local, "Weight", "PersistConn", "ActiveConn", "InActConn", remote)
	case tunInfo:
		return local + " Scheduler Flags\n" + fmt.Sprintf("%-33s Forward TunnelInfo    Weight ActiveConn InActConn", remote)
	}
	return local + " Scheduler Flags\n" + fmt.Sprintf("%-33s Forward Weight ActiveConn InActConn", remote)
}

// width is that of a real server's row, in which nothing is wider than its column.
func (l layout) width() int {
	switch l {
	case stats, rate:
		return 33 + 5*9
	case thresholds:
		return 33 + 4*11
	case persistentConn:
		return 33 + 10 + 12 + 2*11
	case tunInfo:
		return 33 + 8 + 14 + 7 + 2*11
	}
	return 33 + 8 + 7 + 2*11
}

// numbers are the columns of --stats and --rate.
func (l layout) numbers(c *ipvs.Counters) [5]uint64 {
	if c == nil {
		return [5]uint64{}
	}
	if l == rate {
		return [5]uint64{c.ConnRate, c.InPacketRate, c.OutPacketRate, c.InByteRate, c.OutByteRate}
	}
	return [5]uint64{c.Conns, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes}
}

// forward is the name of a forwarding method; those that cannot be set print as C prints no string.
func forward(f ipvs.Forwarding) string {
	if f > ipvs.Direct {
		return "(null)"
	}
	return f.String()
}

// tunnelInfo is the type, port and checksum of a tunnel: "gue:6080:+c".
func tunnelInfo(r *ipvs.RealInfo) string {
	if r.Forwarding != ipvs.Tunnel || r.TunnelType > ipvs.GRE {
		return "n/a"
	}
	checksum := [...]string{"-c", "+c", "r+c"}[min(r.TunnelFlags, 2)]
	switch r.TunnelType {
	case ipvs.GUE:
		return fmt.Sprintf("gue:%d:%s", r.TunnelPort, checksum)
	case ipvs.GRE:
		return "gre:" + checksum
	}
	return "ipip"
}
