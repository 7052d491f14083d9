package lab

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Class is what became of a connection.
type Class string

// Classes. What went well has the empty one.
const (
	OK      Class = ""
	Refused Class = "refused" // an answer that says no: a reset to our SYN, or ICMP port unreachable
	Reset   Class = "reset"   // cut after it was there
	Timeout Class = "timeout" // no answer in time
	Other   Class = "other"
)

// classify sorts an error into its class.
func classify(err error) Class {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return Reset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	}
	return Other
}

// Connection is what became of one connection. A time is zero when that was not reached; all carry
// the monotonic clock.
type Connection struct {
	Start     time.Time // before the SYN was sent
	Connected time.Time
	Answered  time.Time // the backend's line was read
	Ended     time.Time

	Source  netip.AddrPort
	Colour  string     // "" when it was not answered
	Backend netip.Addr // which answered
	SeenAs  netip.Addr // the client's address as the backend saw it

	Class Class
	Err   error
}

func (c Connection) String() string {
	s := fmt.Sprintf("%s from %v", c.Start.Format("15:04:05.000"), c.Source)
	if !c.Connected.IsZero() {
		s += fmt.Sprintf(", connected after %v", c.Connected.Sub(c.Start).Round(time.Millisecond))
	}
	if c.Colour != "" {
		s += fmt.Sprintf(", answered by %s (%v) after %v", c.Colour, c.Backend, c.Answered.Sub(c.Start).Round(time.Millisecond))
	}
	if c.Err != nil {
		s += fmt.Sprintf(": %s after %v: %v", c.Class, c.Ended.Sub(c.Start).Round(time.Millisecond), c.Err)
	}
	return s
}

// Report is what became of connections, in the order of their start.
type Report []Connection

// newReport sorts what several workers wrote down.
func newReport(parts ...[]Connection) Report {
	r := slices.Concat(parts...)
	slices.SortStableFunc(r, func(a, b Connection) int { return a.Start.Compare(b.Start) })
	return r
}

// Where keeps the connections for which keep holds.
func (r Report) Where(keep func(Connection) bool) Report {
	var kept Report
	for _, c := range r {
		if keep(c) {
			kept = append(kept, c)
		}
	}
	return kept
}

// Since keeps the connections that started at the time or later.
func (r Report) Since(t time.Time) Report {
	return r[r.at(t):]
}

// Until keeps the connections that started before the time.
func (r Report) Until(t time.Time) Report {
	return r[:r.at(t)]
}

func (r Report) at(t time.Time) int {
	i, _ := slices.BinarySearchFunc(r, t, func(c Connection, t time.Time) int { return c.Start.Compare(t) })
	return i
}

// Failed keeps the connections that did not go well.
func (r Report) Failed() Report {
	return r.Where(func(c Connection) bool { return c.Class != OK })
}

// Lost keeps those that did not go well, but for those that a change overtook in their handshake: while the answer to a SYN was
// a second on its way, their kernel sent the SYN again (tcp(7)), and IPVS sends one that comes again to another real server when
// the first one's weight is 0 by then (ip_vs_in of net/netfilter/ipvs/ip_vs_core.c, under expire_nodest_conn). Who then
// takes the first answer is reset by the second real server. On a machine that is busy this happens without a network in between.
func (r Report) Lost() Report {
	return r.Failed().Where(func(c Connection) bool { return c.Class != Reset || !c.SYNAgain() })
}

// firstRTO is after what time without an answer a SYN is sent again (TCP_TIMEOUT_INIT of include/net/tcp.h).
const firstRTO = time.Second

// SYNAgain says whether the handshake took so long that the SYN was sent again.
func (c Connection) SYNAgain() bool {
	handshake := c.Connected
	if handshake.IsZero() {
		handshake = c.Ended
	}
	return handshake.Sub(c.Start) >= firstRTO
}

// To keeps the connections that a backend of the colour answered.
func (r Report) To(colour string) Report {
	return r.Where(func(c Connection) bool { return c.Colour == colour })
}

// ByColour counts the answered connections.
func (r Report) ByColour() map[string]int {
	n := map[string]int{}
	for _, c := range r {
		if c.Colour != "" {
			n[c.Colour]++
		}
	}
	return n
}

// ByClass counts the connections that did not go well.
func (r Report) ByClass() map[Class]int {
	n := map[Class]int{}
	for _, c := range r {
		if c.Class != OK {
			n[c.Class]++
		}
	}
	return n
}

// Turned finds the moment from which a new connection may no longer reach another colour: the first
// time that a connection to the colour had been answered. False when none was.
func (r Report) Turned(colour string) (time.Time, bool) {
	var first time.Time
	for _, c := range r {
		if c.Colour == colour && (first.IsZero() || c.Answered.Before(first)) {
			first = c.Answered
		}
	}
	return first, !first.IsZero()
}

// Mixed keeps the connections to the old colour that started after one to the new colour had been
// answered. A switch from old to new leaves none. The report must span one switch only.
func (r Report) Mixed(old, new string) Report {
	turned, ok := r.Turned(new)
	if !ok {
		return nil
	}
	return r.Where(func(c Connection) bool { return c.Colour == old && c.Start.After(turned) })
}

// Backends are the addresses that answered, sorted.
func (r Report) Backends() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, c := range r {
		if c.Backend.IsValid() {
			seen[c.Backend] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

// String is the counts, as "v1 812, v2 4; refused 1".
func (r Report) String() string {
	s := counts(r.ByColour())
	if failed := r.ByClass(); len(failed) > 0 {
		s += "; " + counts(failed)
	}
	return s
}

func counts[K cmp.Ordered](n map[K]int) string {
	if len(n) == 0 {
		return "none"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%v %d", k, n[k]))
	}
	return strings.Join(parts, ", ")
}

// Lines is each connection on a line of its own, the first few of many: for a failure's message.
func (r Report) Lines() string {
	const most = 10
	var b strings.Builder
	for i, c := range r {
		if i == most {
			fmt.Fprintf(&b, "… and %d more\n", len(r)-most)
			break
		}
		fmt.Fprintln(&b, c)
	}
	return b.String()
}
