package ipvs

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// message is one netlink message, as a view of the receive buffer.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte // after the netlink header
}

// cut takes the first message off a datagram.
func cut(datagram []byte) (m message, rest []byte, err error) {
	if len(datagram) < unix.SizeofNlMsghdr {
		return m, nil, errMalformed
	}
	size := uint64(native.Uint32(datagram))
	if size < unix.SizeofNlMsghdr || size > uint64(len(datagram)) {
		return m, nil, errMalformed
	}
	m = message{
		kind: native.Uint16(datagram[4:]), flags: native.Uint16(datagram[6:]),
		seq: native.Uint32(datagram[8:]), body: datagram[unix.SizeofNlMsghdr:size],
	}
	return m, datagram[min((size+3)&^3, uint64(len(datagram))):], nil
}

// result is the error of an NLMSG_ERROR or NLMSG_DONE message; nil when it reports success.
func (m message) result() error {
	if len(m.body) < 4 {
		return errMalformed
	}
	code := int32(native.Uint32(m.body))
	if code >= 0 {
		return nil
	}
	return unix.Errno(-code)
}

// payload is what comes after the generic netlink header.
func (m message) payload() ([]byte, error) {
	if len(m.body) < nl.SizeofGenlmsg {
		return nil, errMalformed
	}
	return m.body[nl.SizeofGenlmsg:], nil
}

// ask sends the request in c.out, whose sequence number is c.seq, and hands its one answer to f.
func (c *Conn) ask(ctx context.Context, f func(payload []byte) error) error {
	if err := c.send(); err != nil {
		return err
	}
	err := c.await(ctx, f)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		c.disconnect() // the answer may still come
	}
	return err
}

func (c *Conn) await(ctx context.Context, f func(payload []byte) error) error {
	for {
		datagram, err := c.receive(ctx)
		if err != nil {
			c.disconnect()
			return err
		}
		for len(datagram) > 0 {
			var m message
			if m, datagram, err = cut(datagram); err != nil {
				return err
			}
			if m.seq != c.seq {
				continue
			}
			if m.kind == unix.NLMSG_ERROR {
				return m.result()
			}
			payload, err := m.payload()
			if err != nil {
				return err
			}
			return f(payload)
		}
	}
}

// dump sends the request in c.out, whose sequence number is c.seq, and hands each answer to f, with
// the number of the datagram that it came in, from 0. It says whether the kernel marked the dump as
// interrupted. Any error ends the socket: the rest of a dump that nobody reads would block the next.
func (c *Conn) dump(ctx context.Context, f func(part int, payload []byte) error) (interrupted bool, err error) {
	if err := ctx.Err(); err != nil { // a whole table is a thousand dumps
		return false, err
	}
	if err := c.send(); err != nil {
		return false, err
	}
	return c.collect(ctx, f)
}

func (c *Conn) collect(ctx context.Context, f func(part int, payload []byte) error) (interrupted bool, err error) {
	for part := 0; ; part++ {
		done, intr, err := c.dumpPart(ctx, part, f)
		interrupted = interrupted || intr
		if err != nil {
			c.disconnect()
			return false, err
		}
		if done {
			return interrupted, nil
		}
	}
}

func (c *Conn) dumpPart(ctx context.Context, part int, f func(int, []byte) error) (done, interrupted bool, err error) {
	datagram, err := c.receive(ctx)
	if err != nil {
		return false, false, err
	}
	for len(datagram) > 0 {
		var m message
		if m, datagram, err = cut(datagram); err != nil {
			return false, false, err
		}
		if m.seq != c.seq {
			continue
		}
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch m.kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true, interrupted, m.result()
		case unix.NLMSG_NOOP:
			continue
		}
		payload, err := m.payload()
		if err != nil {
			return false, false, err
		}
		if err := f(part, payload); err != nil {
			return false, false, err
		}
	}
	return false, interrupted, nil
}
