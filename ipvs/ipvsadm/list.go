package ipvsadm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pointsman/pointsman/ipvs"
)

// Options are the flags of ipvsadm -L. Of Stats, Rate, Thresholds, PersistentConn and TunInfo the first
// that is set counts, in this order.
type Options struct {
	Numeric        bool // -n
	Stats          bool // --stats
	Rate           bool // --rate
	Thresholds     bool // --thresholds
	PersistentConn bool // --persistent-conn
	TunInfo        bool // --tun-info
	Exact          bool // --exact
	NoSort         bool // --nosort
	// Service is the one virtual server to list (-t, -u, --sctp-service, -f); nil: all.
	Service *ipvs.Key
	// Resolver gives names unless Numeric is set; nil: a SystemResolver.
	Resolver Resolver
	// Colour gives the colour of a real server, or "". When it is not nil, real servers have one more
	// column for it.
	Colour func(ipvs.Key, ipvs.RealKey) string
	// Steered says in words what a mark-keyed virtual server stands for, or ""; it is added to its line. nil: nothing is.
	Steered func(ipvs.Key) string
}

// ErrNoService is what List gives when Options.Service is not in the table.
var ErrNoService = errors.New("no such service")

// List writes the table. With Options.Service it writes that virtual server alone and without the line
// about the version.
func List(w io.Writer, table []ipvs.ServiceInfo, header ipvs.Info, opts Options) error {
	one := opts.Service != nil
	if one {
		i := slices.IndexFunc(table, func(s ipvs.ServiceInfo) bool { return s.Key == *opts.Service })
		if i < 0 {
			return fmt.Errorf("%v: %w: %w", *opts.Service, ErrNoService, os.ErrNotExist)
		}
		table = table[i : i+1]
	}
	if !opts.NoSort && !one {
		table = sorted(table, compareServices)
	}
	p := printer{Writer: bufio.NewWriter(w), opts: opts, layout: opts.layout()}
	p.names.prepare(opts, addresses(table))
	if !one {
		v := header.Version
		fmt.Fprintf(p, "IP Virtual Server version %d.%d.%d (size=%d)\n", v>>16&0xff, v>>8&0xff, v&0xff, int32(header.ConnTableSize))
	}
	p.title()
	for i := range table {
		p.service(&table[i])
		reals := table[i].Reals
		if !opts.NoSort {
			reals = sorted(reals, compareReals)
		}
		for j := range reals {
			p.real(&table[i], &reals[j])
		}
	}
	return p.Flush() // the writer keeps the first error
}

// printer writes rows. What fmt returns is not looked at: bufio keeps the first error for Flush.
type printer struct {
	*bufio.Writer
	opts   Options
	layout layout
	names  names
}

func (p *printer) title() {
	lines := strings.Split(p.layout.title(), "\n")
	if p.opts.Colour != nil {
		lines[1] = fmt.Sprintf("%-*s Colour", p.layout.width(), lines[1])
	}
	fmt.Fprintf(p, "%s\n%s\n", lines[0], lines[1])
}

// The widths that names of IPv4 servers are cut to; those of IPv6 ones are not.
const (
	serviceWidth = 33
	realWidth    = 28
)

func (p *printer) service(s *ipvs.ServiceInfo) {
	name := p.serviceName(s)
	switch p.layout {
	case stats, rate:
		fmt.Fprintf(p, "%-*s", serviceWidth, name)
		for _, n := range p.layout.numbers(&s.Counters) {
			p.number(n)
		}
	default:
		p.WriteString(name + " " + s.Scheduler)
		// A flag of sh or mh without a name leaves the brackets empty.
		if s.Flags&(ipvs.Sched1|ipvs.Sched2|ipvs.Sched3) != 0 {
			fmt.Fprintf(p, " (%s)", s.SchedulerFlags())
		}
		if s.Flags&ipvs.Persistent != 0 {
			fmt.Fprintf(p, " persistent %d", s.Timeout)
			if mask := s.MaskText(); mask != "" {
				p.WriteString(" mask " + mask)
			}
			if s.PersistenceEngine != "" {
				p.WriteString(" pe " + s.PersistenceEngine)
			}
		}
		if s.Flags&ipvs.OnePacket != 0 {
			p.WriteString(" ops")
		}
	}
	p.steered(s)
	p.WriteByte('\n')
}

// steered adds what a mark stands for.
func (p *printer) steered(s *ipvs.ServiceInfo) {
	if p.opts.Steered == nil {
		return
	}
	if text := p.opts.Steered(s.Key); text != "" {
		p.WriteString(" (" + text + ")")
	}
}

func (p *printer) serviceName(s *ipvs.ServiceInfo) string {
	if s.Mark != 0 {
		name := fmt.Sprintf("FWM  %d", int32(s.Mark))
		if s.Addr.Is6() {
			name += " IPv6"
		}
		return name
	}
	protocol := "?"
	switch s.Protocol {
	case ipvs.TCP, ipvs.UDP, ipvs.SCTP:
		protocol = s.Protocol.String()
	}
	name := fmt.Sprintf("%-4s %s", protocol, p.names.endpoint(s.Addr, s.Port, s.Protocol))
	if s.Addr.Is4() && len(name) > serviceWidth {
		name = name[:serviceWidth]
	}
	return name
}

func (p *printer) real(s *ipvs.ServiceInfo, r *ipvs.RealInfo) {
	// A mark-keyed service has protocol 0, so its real servers' ports have no names.
	name := p.names.endpoint(r.Addr, r.Port, s.Protocol)
	if r.Addr.Is4() && len(name) > realWidth {
		name = name[:realWidth]
	}
	fmt.Fprintf(p, "  -> %-*s", realWidth, name)
	weight := int32(r.Weight)
	switch p.layout {
	case stats:
		for _, n := range stats.numbers(r.Counters) {
			p.number(n)
		}
	case rate:
		for i, n := range rate.numbers(r.Counters) {
			if i < 3 {
				fmt.Fprintf(p, " %8d", n)
			} else {
				p.number(n)
			}
		}
	case thresholds:
		fmt.Fprintf(p, " %-10d %-10d %-10d %-10d", r.Upper, r.Lower, r.Active, r.Inactive)
	case persistentConn:
		fmt.Fprintf(p, " %-9d %-11d %-10d %-10d", r.Weight, r.Persistent, r.Active, r.Inactive)
	case tunInfo:
		fmt.Fprintf(p, " %-7s %-13s %-6d %-10d %-10d", forward(r.Forwarding), tunnelInfo(r), weight, r.Active, r.Inactive)
	default:
		fmt.Fprintf(p, " %-7s %-6d %-10d %-10d", forward(r.Forwarding), weight, r.Active, r.Inactive)
	}
	if p.opts.Colour != nil {
		if colour := p.opts.Colour(s.Key, r.RealKey); colour != "" {
			p.WriteString(" " + colour)
		}
	}
	p.WriteByte('\n')
}

// number writes a counter in 9 columns: as it is, or, when that takes more than 8 digits, cut (not
// rounded) to a unit.
func (p *printer) number(n uint64) {
	if p.opts.Exact {
		fmt.Fprintf(p, " %8d", n)
		return
	}
	const million, billion, trillion = 1_000_000, 1_000_000_000, 1_000_000_000_000
	switch {
	case n < 100*million:
		fmt.Fprintf(p, "%9d", n)
	case n < billion:
		fmt.Fprintf(p, "%8dK", n/1000)
	case n < 100*billion:
		fmt.Fprintf(p, "%8dM", n/million)
	case n < 100*trillion:
		fmt.Fprintf(p, "%8dG", n/billion)
	default:
		fmt.Fprintf(p, "%8dT", n/trillion)
	}
}
