package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Fake is an IPVS table in memory, with the method set of [Conn] and the kernel's manners: the same
// refusals with the same errnos, real servers listed with the last added first, counters that begin at
// zero. The same tests run against it and the kernel.
//
// It differs in three things. Virtual servers are listed in the order of their making, those with an
// address first, where the kernel lists them by hash. It has every scheduler and persistence engine
// that Linux ships and never loads one. And a real server that was deleted and is added again begins anew,
// where the kernel may find the old one with its connections.
type Fake struct {
	mu       sync.Mutex
	services []ServiceInfo
	ops      int
	hook     func(n int, op Op) error
	closed   bool
}

// NewFake gives an empty table.
func NewFake() *Fake { return &Fake{} }

// Intercept calls f before each op that Apply would run, with its number since the Fake was made, from
// 0. An error is that op's outcome, and the op is not run. f must not call the Fake. Nil ends it.
func (f *Fake) Intercept(hook func(n int, op Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// SetService sets the counters of a virtual server; it says whether there is one.
func (f *Fake) SetService(key Key, counters Counters) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.find(key)
	if s != nil {
		s.Counters = counters
	}
	return s != nil
}

// SetReal sets what the kernel counts of a real server: of info only the connections and counters are
// used. It says whether there is such a real server.
func (f *Fake) SetReal(key Key, real RealKey, info RealInfo) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.find(key)
	if s == nil {
		return false
	}
	i := s.real(real)
	if i < 0 {
		return false
	}
	info.RealServer = s.Reals[i].RealServer
	s.Reals[i] = info
	return true
}

// Count is how many ops Apply was given, as [Changes.Count] counts the kernel's calls.
func (f *Fake) Count() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return PerCall * uint64(f.ops), nil
}

// Changed never tells of anything.
func (f *Fake) Changed() <-chan struct{} { return nil }

// Close does what [Conn.Close] does.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	return nil
}

func (f *Fake) begin(ctx context.Context) error {
	f.mu.Lock()
	err := ctx.Err()
	if f.closed {
		err = os.ErrClosed
	}
	if err != nil {
		f.mu.Unlock()
	}
	return err
}

// Read gives a copy of the whole table.
func (f *Fake) Read(ctx context.Context) ([]ServiceInfo, error) {
	if err := f.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading the table: %w", err)
	}
	defer f.mu.Unlock()
	list := f.list()
	for i := range list {
		list[i].Reals = append([]RealInfo{}, list[i].Reals...)
	}
	return list, nil
}

// Services gives the virtual servers alone.
func (f *Fake) Services(ctx context.Context) ([]ServiceInfo, error) {
	if err := f.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading virtual servers: %w", err)
	}
	defer f.mu.Unlock()
	list := f.list()
	for i := range list {
		list[i].Reals = nil
	}
	return list, nil
}

// list is the services in their order; the real servers are still the table's.
func (f *Fake) list() []ServiceInfo {
	var list []ServiceInfo
	for _, marked := range []bool{false, true} {
		for _, s := range f.services {
			if (s.Mark != 0) == marked {
				list = append(list, s)
			}
		}
	}
	return list
}

// RealServers gives the real servers of one virtual server.
func (f *Fake) RealServers(ctx context.Context, key Key) ([]RealInfo, error) {
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("ipvs: reading real servers: %w", err)
	}
	if err := f.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading real servers of %v: %w", key, err)
	}
	defer f.mu.Unlock()
	s := f.find(key)
	if s == nil {
		return nil, fmt.Errorf("ipvs: reading real servers of %v: %w", key, os.ErrNotExist)
	}
	return append([]RealInfo{}, s.Reals...), nil
}

// Info gives the version of every kernel since 2.6, and the default size.
func (f *Fake) Info(ctx context.Context) (Info, error) {
	if err := f.begin(ctx); err != nil {
		return Info{}, fmt.Errorf("ipvs: reading the version: %w", err)
	}
	defer f.mu.Unlock()
	return Info{Version: 0x010201, ConnTableSize: 4096}, nil
}

// Timeouts gives the kernel's defaults.
func (f *Fake) Timeouts(ctx context.Context) (Timeouts, error) {
	if err := f.begin(ctx); err != nil {
		return Timeouts{}, fmt.Errorf("ipvs: reading the timeouts: %w", err)
	}
	defer f.mu.Unlock()
	return Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}, nil
}

// Daemons gives none.
func (f *Fake) Daemons(ctx context.Context) ([]Daemon, error) {
	if err := f.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading the synchronisation daemons: %w", err)
	}
	defer f.mu.Unlock()
	return nil, nil
}

// Apply does what [Conn.Apply] does.
func (f *Fake) Apply(ctx context.Context, ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	all := f.begin(ctx)
	if all == nil {
		defer f.mu.Unlock()
	}
	var failed []*OpError
	for i := range ops {
		err := all
		if err == nil {
			err = checkOp(&ops[i])
		}
		if err == nil && f.hook != nil {
			err = f.hook(f.ops, ops[i])
		}
		if all == nil {
			f.ops++
		}
		if err == nil {
			if errno := f.run(&ops[i]); errno != 0 {
				err = errno
			}
		}
		if err != nil {
			failed = append(failed, &OpError{Index: i, Op: ops[i], Err: err})
		}
	}
	if failed != nil {
		return &BatchError{Total: len(ops), Ops: failed}
	}
	return nil
}

func (f *Fake) find(key Key) *ServiceInfo {
	for i := range f.services {
		if f.services[i].Key == key {
			return &f.services[i]
		}
	}
	return nil
}

func (s *ServiceInfo) real(key RealKey) int {
	return slices.IndexFunc(s.Reals, func(r RealInfo) bool { return r.RealKey == key })
}

// run is the kernel's ip_vs_genl_set_cmd; its checks are in the kernel's order.
func (f *Fake) run(op *Op) unix.Errno {
	s := f.find(op.Service.Key)
	if s == nil && op.Verb != AddService {
		return unix.ESRCH
	}
	if s != nil && op.Verb == AddService {
		return unix.EEXIST
	}
	switch op.Verb {
	case AddService:
		if !known(&op.Service) {
			return unix.ENOENT
		}
		f.services = append(f.services, ServiceInfo{Service: op.Service})
	case EditService:
		if !known(&op.Service) {
			return unix.ENOENT
		}
		s.Service = op.Service
	case DelService:
		f.services = slices.DeleteFunc(f.services, func(o ServiceInfo) bool { return o.Key == s.Key })
	default:
		return s.run(op.Verb, op.Real)
	}
	return 0
}

func known(s *Service) bool {
	_, scheduler := names[s.Scheduler]
	return scheduler && s.Scheduler != "sip" && (s.PersistenceEngine == "" || s.PersistenceEngine == "sip")
}

// broadcast is the limited broadcast address.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (s *ServiceInfo) run(verb Verb, r RealServer) unix.Errno {
	i := s.real(r.RealKey)
	if verb == DelReal {
		if i < 0 {
			return unix.ENOENT
		}
		s.Reals = slices.Delete(s.Reals, i, i+1)
		return 0
	}
	switch {
	case r.Addr.Is4() != s.Addr.Is4() && r.Forwarding != Tunnel:
		return unix.EINVAL
	case r.Lower > r.Upper:
		return unix.ERANGE
	case verb == AddReal && i >= 0:
		return unix.EEXIST
	case verb == EditReal && i < 0:
		return unix.ENOENT
	case verb == EditReal:
		s.Reals[i].RealServer = r
	// Not an address to send to. Link-local IPv6 would do if it were this node's own.
	case r.Addr.IsMulticast(), r.Addr.IsUnspecified(), r.Addr.Is6() && r.Addr.IsLinkLocalUnicast(),
		r.Addr == broadcast:
		return unix.EINVAL
	default:
		s.Reals = slices.Insert(s.Reals, 0, RealInfo{RealServer: r})
	}
	return 0
}
