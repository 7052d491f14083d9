package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Held are long-lived connections that exchange a line every so often and check that the answer is
// to that line and from the same backend as the first.
type Held struct {
	From    *Namespace
	Target  netip.AddrPort
	Local   []netip.Addr // source addresses, used in turn
	Count   int
	Every   time.Duration // between exchanges; default 250 ms
	Timeout time.Duration // for each exchange; default 5 s
}

// Session is what became of one long-lived connection.
type Session struct {
	Opened  time.Time
	Source  netip.AddrPort
	Colour  string
	Backend netip.Addr

	Exchanges int       // lines sent and answered rightly
	Sent      time.Time // when the last of these was sent
	Failed    time.Time // when it was seen to have ended, when it was not by us
	Class     Class     // why it did
	Err       error
}

// Alive says whether the connection is there still.
func (s Session) Alive() bool { return s.Err == nil }

func (s Session) String() string {
	text := fmt.Sprintf("from %v to %s (%v), %d exchanges", s.Source, s.Colour, s.Backend, s.Exchanges)
	if s.Err != nil {
		text += fmt.Sprintf(": %s: %v", s.Class, s.Err)
	}
	return text
}

// Sessions are long-lived connections that are open.
type Sessions struct {
	held Held
	done sync.WaitGroup
	stop chan struct{}
	once sync.Once

	mu    sync.Mutex
	abort bool // end with a reset
	each  []Session
}

// Hold opens the connections, one after the other, and keeps them busy. One that cannot be opened is
// an error; one that fails later says so in its [Session].
func (l *Lab) Hold(held Held) (*Sessions, error) {
	if held.Every == 0 {
		held.Every = 250 * time.Millisecond
	}
	if held.Timeout == 0 {
		held.Timeout = 5 * time.Second
	}
	s := &Sessions{held: held, stop: make(chan struct{}), each: make([]Session, held.Count)}
	l.onClose(func() { s.Close() })
	for i := range s.each {
		c, err := s.open(i)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("opening long-lived connection %d of %d to %v: %w", i+1, held.Count, held.Target, err)
		}
		s.done.Go(func() { s.keep(i, c) })
	}
	return s, nil
}

// talker is an open connection with its reader.
type talker struct {
	*conn
	lines *bufio.Reader
}

func (s *Sessions) open(i int) (*talker, error) {
	each := Session{Opened: time.Now()}
	var o dialOptions
	if n := len(s.held.Local); n > 0 {
		o.local = netip.AddrPortFrom(s.held.Local[i%n], 0)
	}
	c, err := s.held.From.dial(s.held.Target, s.held.Timeout, o)
	if err != nil {
		return nil, err
	}
	t := &talker{c, bufio.NewReaderSize(c, 128)}
	line, err := t.lines.ReadString('\n')
	if err == nil {
		each.Source = c.local()
		each.Colour, each.Backend, _, err = parseAnswer(line)
	}
	if err != nil {
		_ = c.Close()
		return nil, noEOF(err)
	}
	s.mu.Lock()
	s.each[i] = each
	s.mu.Unlock()
	return t, nil
}

// keep exchanges lines until told to stop or the first failure.
func (s *Sessions) keep(i int, t *talker) {
	defer t.Close()
	tick := time.NewTicker(s.held.Every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-s.stop:
			s.end(t)
			return
		case <-tick.C:
		}
		sent := time.Now()
		err := s.exchange(t, i, n)
		s.mu.Lock()
		if err == nil {
			s.each[i].Exchanges, s.each[i].Sent = n, sent
		} else {
			s.each[i].Err, s.each[i].Class, s.each[i].Failed = err, classify(err), time.Now()
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// exchange sends line n and reads the answer to it.
func (s *Sessions) exchange(t *talker, i, n int) error {
	if err := t.SetDeadline(time.Now().Add(s.held.Timeout)); err != nil {
		return err
	}
	said := fmt.Sprintf("session %d line %d\n", i, n)
	if _, err := t.WriteString(said); err != nil {
		return err
	}
	line, err := t.lines.ReadString('\n')
	if err != nil {
		return noEOF(err)
	}
	colour, backend, _, err := parseAnswer(line)
	s.mu.Lock()
	first := s.each[i]
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case colour != first.Colour || backend != first.Backend:
		return fmt.Errorf("the connection moved from %s (%v) to %s (%v)", first.Colour, first.Backend, colour, backend)
	case !strings.HasSuffix(line, " "+said):
		return fmt.Errorf("said %q and was answered %q", said, line)
	}
	return nil
}

// end ends the connection: with a reset, or in order.
func (s *Sessions) end(t *talker) {
	s.mu.Lock()
	abort := s.abort
	s.mu.Unlock()
	if abort {
		t.setAbort()
		return
	}
	if t.SetDeadline(time.Now().Add(time.Second)) == nil && t.closeWrite() == nil {
		_, _ = t.lines.ReadString('\n')
	}
}

// Report is how the connections are now.
func (s *Sessions) Report() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Session(nil), s.each...)
}

// Await waits until each connection has exchanged a line that was sent after this call, and fails
// with those that have not.
func (s *Sessions) Await(timeout time.Duration) error {
	since := time.Now()
	for {
		var errs []error
		waiting := false
		for _, each := range s.Report() {
			switch {
			case !each.Alive():
				errs = append(errs, errors.New(each.String()))
			case !each.Sent.After(since):
				waiting = true
				if time.Since(since) > timeout {
					errs = append(errs, fmt.Errorf("%v: silent for %v", each, timeout))
				}
			}
		}
		if len(errs) > 0 || !waiting {
			return errors.Join(errs...)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Close ends the connections in order and reports them; those that failed keep their error.
func (s *Sessions) Close() []Session {
	s.once.Do(func() { close(s.stop) })
	s.done.Wait()
	return s.Report()
}

// Abort ends the connections with a reset: IPVS remembers such a connection for 10 s, and one that
// ended in order for 2 minutes.
func (s *Sessions) Abort() []Session {
	s.mu.Lock()
	s.abort = true
	s.mu.Unlock()
	return s.Close()
}
