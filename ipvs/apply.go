package ipvs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// batchOps is how many ops go into one send. Every one of them may fail, and the kernel queues a
	// datagram of at most 1.3 KB (of accounted memory) for each failure before the send returns: all
	// of them have to fit into the receive buffer that an unprivileged socket gets by default, 416 KiB.
	// The cost of a send is that of one op, so more would not be noticed.
	batchOps = 256
	// batchBytes is the most that a send carries: room for batchOps of the usual size (180 bytes with
	// both addresses IPv6), and less than the smallest send buffer, which a larger one would not fit in.
	batchBytes = 96 << 10
)

// OpError is what became of one op that the kernel did not do.
type OpError struct {
	Index int // in the slice given to Apply
	Op    Op
	// Err is the kernel's unix.Errno, or wraps ErrInvalid (refused here), ErrUnknownOutcome (the answer
	// was lost) or the error for which the op was not sent at all (the context's, the socket's).
	Err error
}

// Error is the command and the reason.
func (e *OpError) Error() string { return e.Op.String() + ": " + e.reason() }

func (e *OpError) reason() string {
	var errno unix.Errno
	if !errors.As(e.Err, &errno) || errors.Is(e.Err, ErrUnknownOutcome) {
		return e.Err.Error()
	}
	onReal := e.Op.Verb >= AddReal
	switch {
	case errno == unix.ESRCH:
		return "no such virtual server"
	case errno == unix.EEXIST && onReal:
		return "the real server exists already"
	case errno == unix.EEXIST:
		return "the virtual server exists already"
	case errno == unix.ENOENT && onReal:
		return "no such real server"
	case errno == unix.ENOENT:
		return "no such scheduler or persistence engine in the kernel"
	}
	return e.Err.Error()
}

// Is matches os.ErrNotExist where the virtual or real server that the op is about is not there,
// os.ErrExist where it is already, and what Err is. A scheduler that the kernel has not is ENOENT too, yet
// not os.ErrNotExist: a caller who takes that for "gone already" would be wrong. So there is no Unwrap.
func (e *OpError) Is(target error) bool {
	var errno unix.Errno
	if !errors.As(e.Err, &errno) || errors.Is(e.Err, ErrUnknownOutcome) {
		return errors.Is(e.Err, target)
	}
	switch target {
	case os.ErrNotExist:
		return errno == unix.ESRCH || errno == unix.ENOENT && e.Op.Verb >= AddReal
	case os.ErrExist:
		return errno == unix.EEXIST
	}
	return errors.Is(e.Err, target)
}

// As finds the kernel's unix.Errno, or what else Err holds.
func (e *OpError) As(target any) bool { return errors.As(e.Err, target) }

// BatchError holds the ops of one Apply that were not done, in order.
type BatchError struct {
	Total int // ops given to Apply
	Ops   []*OpError
}

// Error tells the first three.
func (e *BatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ipvs: %d of %d changes failed: ", len(e.Ops), e.Total)
	for i, op := range e.Ops {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Ops)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(op.Error())
	}
	return b.String()
}

// Unwrap gives every op's error, each an *OpError.
func (e *BatchError) Unwrap() []error {
	list := make([]error, len(e.Ops))
	for i, op := range e.Ops {
		list[i] = op
	}
	return list
}

// Apply runs the ops in order, many to a system call. Each takes effect on its own: packets run
// between them, one that fails stops nothing and undoes nothing. It gives nil when all were done, else
// a *BatchError; after an [ErrUnknownOutcome] in it the table has to be read again. A context that
// ends stops before the next send: what was sent is done.
func (c *Conn) Apply(ctx context.Context, ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	var failed []*OpError
	fail := func(index int, err error) {
		failed = append(failed, &OpError{Index: index, Op: ops[index], Err: err})
	}
	if err := c.begin(ctx); err != nil {
		for i := range ops {
			fail(i, err)
		}
		return &BatchError{Total: len(ops), Ops: failed}
	}
	defer c.mu.Unlock()
	for next := 0; next < len(ops); {
		if err := c.ready(ctx); err != nil {
			for ; next < len(ops); next++ {
				fail(next, err)
			}
			break
		}
		first := next
		if next = c.fill(ops, next); len(c.sent) > 0 {
			c.run(ctx)
		}
		for i, state := 0, 0; i < next-first; i++ {
			if state < len(c.sent) && c.sent[state].op == first+i {
				if err := c.sent[state].err; err != nil {
					fail(first+i, err)
				}
				state++
			} else {
				fail(first+i, checkOp(&ops[first+i]))
			}
		}
	}
	if failed != nil {
		return &BatchError{Total: len(ops), Ops: failed}
	}
	return nil
}

// ready says whether another batch may be sent; the one before may have cost the socket.
func (c *Conn) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.sock == nil {
		return c.connect()
	}
	return nil
}

// sentOp is an op of the send under way, by its distance from the first sequence number.
type sentOp struct {
	op  int
	err error
}

// fill puts as many ops as fit into c.out, from ops[next] on, leaving out those that are not valid,
// and gives the index of the first that is left for the next send.
func (c *Conn) fill(ops []Op, next int) int {
	c.out, c.sent = c.out[:0], c.sent[:0]
	last := 0
	for ; next < len(ops) && len(c.sent) < batchOps && len(c.out)+opMax <= batchBytes; next++ {
		if checkOp(&ops[next]) != nil {
			continue
		}
		last = len(c.out)
		c.seq++
		c.out = appendOp(c.out, c.family, c.seq, &ops[next])
		c.sent = append(c.sent, sentOp{op: next})
	}
	if len(c.sent) > 0 {
		// Failures are answered in any case; the last op's answer tells that all have run.
		flags := c.out[last+6:]
		native.PutUint16(flags, native.Uint16(flags)|unix.NLM_F_ACK)
	}
	return next
}

// run sends what fill made and notes in c.sent what became of each.
func (c *Conn) run(ctx context.Context) {
	all := func(err error) {
		for i := range c.sent {
			if c.sent[i].err == nil {
				c.sent[i].err = err
			}
		}
	}
	if err := c.send(); err != nil {
		all(fmt.Errorf("not sent: %w", err)) // the kernel takes all of a datagram or nothing
		c.disconnect()
		return
	}
	if err := c.answers(ctx); err != nil {
		// Which answers are missing cannot be told, so nothing is known of the ops without one.
		all(fmt.Errorf("%w: %w", ErrUnknownOutcome, err))
		c.disconnect()
	}
}

// answers reads the failures of a send, up to the answer to its last op.
func (c *Conn) answers(ctx context.Context) error {
	last := uint32(len(c.sent) - 1)
	first := c.seq - last
	for {
		datagram, err := c.receive(ctx)
		if err != nil {
			return err
		}
		for len(datagram) > 0 {
			var m message
			if m, datagram, err = cut(datagram); err != nil {
				return err
			}
			i := m.seq - first
			if m.kind != unix.NLMSG_ERROR || i > last {
				continue
			}
			if len(m.body) < 4 {
				return errMalformed
			}
			c.sent[i].err = m.result()
			if i == last {
				return nil
			}
		}
	}
}
