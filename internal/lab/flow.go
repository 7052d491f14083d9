package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Flows are UDP flows: each sends numbered datagrams from one port and writes down which of them
// were answered, when and by whom.
type Flows struct {
	From     *Namespace
	Target   netip.AddrPort
	Local    []netip.Addr // source addresses, used in turn
	Count    int
	Every    time.Duration // between the datagrams of one flow; default 50 ms
	Patience time.Duration // how long an answer is waited for at the end; default 1 s
}

// Datagram is what became of one.
type Datagram struct {
	Flow     int
	Sent     time.Time
	Answered time.Time // zero: lost
	Colour   string
	Backend  netip.Addr
}

// Datagrams is what became of the datagrams, by flow and in the order of sending.
type Datagrams []Datagram

// FlowRun are flows that run.
type FlowRun struct {
	flows Flows
	stop  chan struct{}
	once  sync.Once
	done  sync.WaitGroup

	mu      sync.Mutex
	each    [][]Datagram
	refused int
}

// Flow starts the flows; they run until stopped or the lab closes.
func (l *Lab) Flow(flows Flows) (*FlowRun, error) {
	if flows.Every == 0 {
		flows.Every = 50 * time.Millisecond
	}
	if flows.Patience == 0 {
		flows.Patience = time.Second
	}
	r := &FlowRun{flows: flows, stop: make(chan struct{}), each: make([][]Datagram, flows.Count)}
	l.onClose(func() { r.Stop() })
	for i := range flows.Count {
		var o dialOptions
		if n := len(flows.Local); n > 0 {
			o.local = netip.AddrPortFrom(flows.Local[i%n], 0)
		}
		c, err := flows.From.socket(unix.SOCK_DGRAM, flows.Target, o)
		if err != nil {
			r.Stop()
			return nil, fmt.Errorf("opening UDP flow %d to %v: %w", i, flows.Target, err)
		}
		r.done.Go(func() { r.send(i, c) })
		r.done.Go(func() { r.receive(i, c) })
	}
	return r, nil
}

// send sends datagrams until told to stop, then leaves the answers their time and ends the flow.
func (r *FlowRun) send(flow int, c *conn) {
	tick := time.NewTicker(r.flows.Every)
	defer tick.Stop()
	for n := 0; ; n++ {
		r.mu.Lock()
		r.each[flow] = append(r.each[flow], Datagram{Flow: flow, Sent: time.Now()})
		r.mu.Unlock()
		if _, err := fmt.Fprintf(c, "%d %d", flow, n); errors.Is(err, unix.ECONNREFUSED) {
			// News of an earlier one, told instead of sending this one.
			r.refuse()
			_, _ = fmt.Fprintf(c, "%d %d", flow, n)
		}
		select {
		case <-tick.C:
			continue
		case <-r.stop:
		}
		_ = c.SetReadDeadline(time.Now().Add(r.flows.Patience))
		return
	}
}

func (r *FlowRun) receive(flow int, c *conn) {
	defer c.Close()
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			r.refuse()
			continue
		}
		if err != nil {
			return
		}
		now := time.Now()
		colour, backend, _, err := parseAnswer(string(buf[:n]))
		var of, number int
		if words := bytes.Fields(buf[:n]); err != nil || len(words) != 5 {
			continue
		} else if _, err := fmt.Sscanf(string(words[3])+" "+string(words[4]), "%d %d", &of, &number); err != nil || of != flow {
			continue
		}
		r.mu.Lock()
		if number < len(r.each[flow]) {
			d := &r.each[flow][number]
			d.Answered, d.Colour, d.Backend = now, colour, backend
		}
		r.mu.Unlock()
	}
}

func (r *FlowRun) refuse() {
	r.mu.Lock()
	r.refused++
	r.mu.Unlock()
}

// Stop ends the flows and reports their datagrams.
func (r *FlowRun) Stop() Datagrams {
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
	return r.Report()
}

// Refused is how often an ICMP message said that nobody is there.
func (r *FlowRun) Refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Report is what became of the datagrams so far; the last ones may be under way.
func (r *FlowRun) Report() Datagrams {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all Datagrams
	for _, each := range r.each {
		all = append(all, each...)
	}
	return all
}

// Between keeps the datagrams that were sent in the time from from to to; a zero time is no bound.
func (d Datagrams) Between(from, to time.Time) Datagrams {
	var kept Datagrams
	for _, g := range d {
		if !g.Sent.Before(from) && (to.IsZero() || g.Sent.Before(to)) {
			kept = append(kept, g)
		}
	}
	return kept
}

// Lost counts the datagrams without an answer.
func (d Datagrams) Lost() int {
	n := 0
	for _, g := range d {
		if g.Answered.IsZero() {
			n++
		}
	}
	return n
}

// ByColour counts the answered datagrams.
func (d Datagrams) ByColour() map[string]int {
	n := map[string]int{}
	for _, g := range d {
		if g.Colour != "" {
			n[g.Colour]++
		}
	}
	return n
}

// String is the counts, as "v1 40, v2 38; lost 1".
func (d Datagrams) String() string {
	return fmt.Sprintf("%s; lost %d", counts(d.ByColour()), d.Lost())
}
