package ipvs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// How a list is known to be of one moment.
//
// The kernel makes a dump in parts of at most 32 KiB, holding its lock for one part at a time, and
// finds its place again by counting entries. An entry that goes away between two parts makes it pass
// over another one, one that comes makes it repeat one, and it says so neither by NLM_F_DUMP_INTR
// nor by an error. Before 7.0 the services of all namespaces are counted together, so even a
// change in another namespace does this. A dump of the real servers of no service at all is empty,
// and a success.
//
// So: a list that came in one part is right. One that came in more is read until two readings in a
// row are equal in everything but counters, without an entry twice in either; to be wrong, the table
// would have to change back and forth in step with two readings. The service list of a whole read
// is read before and after the real servers, which also finds a service that was not there while its
// real servers were read.

// attempts is how many readings of one list may differ before it is ErrInterrupted.
const attempts = 8

// Read gives the whole table, in the kernel's order, which is no order to rely on. Without virtual
// servers it is empty. It fails with [ErrInterrupted] when the table changes all the time, and with
// the context's error or [os.ErrDeadlineExceeded] when the kernel does not answer in time.
func (c *Conn) Read(ctx context.Context) ([]ServiceInfo, error) {
	if err := c.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading the table: %w", err)
	}
	defer c.mu.Unlock()
	table, err := c.readTable(ctx)
	if err != nil {
		return nil, fmt.Errorf("ipvs: reading the table: %w", err)
	}
	return table, nil
}

// Services gives the virtual servers alone (Reals is nil), in the kernel's order. It fails as Read does.
func (c *Conn) Services(ctx context.Context) ([]ServiceInfo, error) {
	if err := c.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading virtual servers: %w", err)
	}
	defer c.mu.Unlock()
	list, err := settle(func() ([]ServiceInfo, bool, error) { return c.dumpServices(ctx) }, sameServices)
	if err != nil {
		return nil, fmt.Errorf("ipvs: reading virtual servers: %w", err)
	}
	return list, nil
}

// RealServers gives the real servers of one virtual server, in the kernel's order: the one that was
// added last is first. A virtual server that does not exist is [os.ErrNotExist]; for the rest it
// fails as Read does.
func (c *Conn) RealServers(ctx context.Context, key Key) ([]RealInfo, error) {
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("ipvs: reading real servers: %w", err)
	}
	if err := c.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading real servers of %v: %w", key, err)
	}
	defer c.mu.Unlock()
	list, err := c.readReals(ctx, &key)
	if err == nil && len(list) == 0 {
		err = c.exists(ctx, &key)
	}
	if err != nil {
		return nil, fmt.Errorf("ipvs: reading real servers of %v: %w", key, err)
	}
	return list, nil
}

func (c *Conn) readTable(ctx context.Context) ([]ServiceInfo, error) {
	before, _, err := c.dumpServices(ctx)
	if err != nil {
		return nil, err
	}
	for range attempts {
		for i := range before {
			if before[i].Reals != nil {
				continue
			}
			if before[i].Reals, err = c.readReals(ctx, &before[i].Key); err != nil {
				return nil, err
			}
		}
		after, _, err := c.dumpServices(ctx)
		if err != nil {
			return nil, err
		}
		same := sameServices(before, after)
		if same {
			for i := range after { // its counters are the later ones
				after[i].Reals = before[i].Reals
			}
			return after, nil
		}
		// What both lists have needs no second reading, unless it looks as a missing one does.
		known := make(map[Key][]RealInfo, len(before))
		for i := range before {
			if len(before[i].Reals) > 0 {
				known[before[i].Key] = before[i].Reals
			}
		}
		for i := range after {
			after[i].Reals = known[after[i].Key]
		}
		before = after
	}
	return nil, ErrInterrupted
}

// settle reads a list until it is known to be of one moment; see the top of this file.
func settle[T any](read func() (list []T, whole bool, err error), same func(a, b []T) bool) ([]T, error) {
	last, whole, err := read()
	for range attempts {
		if err != nil || whole {
			return last, err
		}
		var list []T
		if list, whole, err = read(); err == nil && same(last, list) {
			return list, nil
		}
		last = list
	}
	return nil, ErrInterrupted
}

// sameServices says whether two readings list the same services, alike in all that can be set,
// and none of them twice.
func sameServices(a, b []ServiceInfo) bool {
	if !slices.EqualFunc(a, b, func(a, b ServiceInfo) bool { return a.Service == b.Service }) {
		return false
	}
	seen := make(map[Key]struct{}, len(a))
	for i := range a {
		seen[a[i].Key] = struct{}{}
	}
	return len(seen) == len(a)
}

func sameReals(a, b []RealInfo) bool {
	if !slices.EqualFunc(a, b, func(a, b RealInfo) bool { return a.RealServer == b.RealServer }) {
		return false
	}
	seen := make(map[RealKey]struct{}, len(a))
	for i := range a {
		seen[a[i].RealKey] = struct{}{}
	}
	return len(seen) == len(a)
}

// dumpServices reads the service list once. It is whole when it came in one part.
func (c *Conn) dumpServices(ctx context.Context) (list []ServiceInfo, whole bool, err error) {
	c.request(cmdGetService, unix.NLM_F_DUMP, nil)
	whole = true
	interrupted, err := c.dump(ctx, func(part int, payload []byte) error {
		whole = whole && part == 0
		if len(list) == cap(list) {
			list = slices.Grow(list, max(64, len(list)))
		}
		list = list[:len(list)+1]
		return parseService(payload, &list[len(list)-1])
	})
	return list, whole && !interrupted, err
}

// readReals reads the real servers of a service; none when there is no such service. The slice is not nil.
func (c *Conn) readReals(ctx context.Context, key *Key) ([]RealInfo, error) {
	list, whole, err := c.dumpReals(ctx, key)
	first := append(make([]RealInfo, 0, len(list)), list...)
	if err != nil || whole {
		return first, err
	}
	handed := false
	return settle(func() ([]RealInfo, bool, error) {
		if !handed {
			handed = true
			return first, false, nil
		}
		list, whole, err := c.dumpReals(ctx, key)
		return append(make([]RealInfo, 0, len(list)), list...), whole, err
	}, sameReals)
}

// dumpReals reads a service's real servers once, into a slice that the next call uses again.
func (c *Conn) dumpReals(ctx context.Context, key *Key) (list []RealInfo, whole bool, err error) {
	c.request(cmdGetDest, unix.NLM_F_DUMP, key)
	af := family(key.Addr)
	list, whole = c.reals[:0], true
	interrupted, err := c.dump(ctx, func(part int, payload []byte) error {
		whole = whole && part == 0
		if len(list) == cap(list) {
			list = slices.Grow(list, max(64, len(list)))
		}
		list = list[:len(list)+1]
		return parseReal(payload, af, !c.uncounted, &list[len(list)-1])
	})
	c.reals = list
	return list, whole && !interrupted, err
}

// exists is os.ErrNotExist when there is no such service.
func (c *Conn) exists(ctx context.Context, key *Key) error {
	c.request(cmdGetService, 0, key)
	err := c.ask(ctx, func([]byte) error { return nil })
	if errors.Is(err, unix.ESRCH) {
		return os.ErrNotExist
	}
	return err
}

// request puts a reading request in c.out, about the service key unless it is nil.
func (c *Conn) request(cmd uint8, flags uint16, key *Key) {
	c.seq++
	c.out = beginMessage(c.out[:0], c.family, unix.NLM_F_REQUEST|flags, c.seq, cmd, genlVersion)
	if key != nil {
		nest := len(c.out)
		c.out = appendKey(c.out, key)
		endNest(c.out, nest)
	}
	endMessage(c.out, 0)
}
