package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Changes counts, inside the kernel, the calls that change an IPVS table: everybody's, in every
// network namespace. IPVS notifies nobody of a change and reading a table costs in proportion to its size;
// this count costs some microseconds, so a large table needs reading only when the count has moved.
//
// It is made of kprobes that belong to their file descriptors: they end with the process, and nothing
// is left in the kernel. It takes CAP_PERFMON and a kernel with kprobes that is not locked down. Kernels
// of Debian and Ubuntu have kernel.perf_event_paranoid above 2, which is no value of the original kernel's, and then want
// CAP_SYS_ADMIN (seen on 6.1 and 7.2, with 3).
type Changes struct {
	changed chan struct{}
	wake    int // an eventfd: ends the waiting, or has it begin anew with other groups
	done    chan struct{}

	mu     sync.Mutex
	cpus   int    // the file of the processors that are online
	online string // what it said: the processors that are counted
	groups []group
	before uint64 // of the processors of earlier groups
	closed bool
}

// group are the counters of one processor.
type group struct {
	leader int // counts, and is told of, all
	others []int
	ring   []byte // of the leader: a page for its head and tail, and one for events
}

// PerCall is by how much one call moves the count: by one when it begins, and by one when it has ended. A change
// is made between the two, so a table that was read between them may lack it, and the second makes it be read
// again. The first would be seen even if the kernel, with too many calls at once, lost a return.
const PerCall = 2

// probe is a function and whether it is its return that counts.
type probe struct {
	function string
	config   uint64 // bit 0: the return (/sys/bus/event_source/devices/kprobe/format/retprobe)
}

// probes are on the kernel's two ways in: generic netlink, and setsockopt, which old programs use
// (ip_vs_genl_ops and ip_vs_sockopts of net/netfilter/ipvs/ip_vs_ctl.c).
var probes = []probe{{"ip_vs_genl_set_cmd", 0}, {"ip_vs_genl_set_cmd", 1}, {"do_ip_vs_set_ctl", 0}, {"do_ip_vs_set_ctl", 1}}

const (
	kprobeType = "/sys/bus/event_source/devices/kprobe/type"
	cpusOnline = "/sys/devices/system/cpu/online"
)

// OpenChanges begins to count. The module ip_vs has to be there. The error says what the kernel refuses.
func OpenChanges() (*Changes, error) {
	cpus, err := unix.Open(cpusOnline, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ipvs: counting changes of the table: opening %s: %w", cpusOnline, err)
	}
	c := &Changes{cpus: cpus, changed: make(chan struct{}, 1), done: make(chan struct{})}
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = c.open()
	}
	if err != nil {
		close(c.done)
		_ = c.Close()
		return nil, fmt.Errorf("ipvs: counting changes of the table: %w", err)
	}
	go c.wait()
	return c, nil
}

func (c *Changes) open() error {
	text, err := os.ReadFile(kprobeType)
	if err != nil {
		return fmt.Errorf("the kernel has no counting kprobes: %w", err)
	}
	kind, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kprobeType, err)
	}
	if c.online, err = c.readOnline(); err != nil {
		return err
	}
	cpus, err := parseCPUs(c.online)
	if err != nil {
		return err
	}
	for _, cpu := range cpus {
		g, err := openGroup(uint32(kind), cpu)
		c.groups = append(c.groups, g)
		if err != nil {
			c.close()
			return err
		}
	}
	return nil
}

// openGroup counts the calls on one processor. What it gives with an error is to be closed all the same.
func openGroup(kind uint32, cpu int) (g group, err error) {
	g.leader = -1
	for _, p := range probes {
		fd, err := openProbe(kind, p, cpu, g.leader)
		if err != nil {
			return g, err
		}
		if g.leader >= 0 {
			g.others = append(g.others, fd)
			// Its events go into the leader's ring.
			if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_OUTPUT, g.leader); err != nil {
				return g, os.NewSyscallError("PERF_EVENT_IOC_SET_OUTPUT", err)
			}
			continue
		}
		g.leader = fd
		if g.ring, err = unix.Mmap(fd, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return g, os.NewSyscallError("mmap", err)
		}
	}
	return g, nil
}

// openProbe counts the calls of a function, or its returns, on one processor.
func openProbe(kind uint32, p probe, cpu, leader int) (int, error) {
	name, err := unix.BytePtrFromString(p.function)
	if err != nil {
		return -1, err
	}
	attr := unix.PerfEventAttr{
		Type:   kind,
		Size:   uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config: p.config,
		// kprobe_func, in the field's union with config1 (linux/perf_event.h).
		Ext1:        uint64(uintptr(unsafe.Pointer(name))),
		Read_format: unix.PERF_FORMAT_GROUP,
		// Each call is an event of 8 bytes in the ring, and wakes who waits.
		Sample: 1,
		Wakeup: 1,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, leader, unix.PERF_FLAG_FD_CLOEXEC)
	runtime.KeepAlive(name)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("probing %s: %w (it takes CAP_PERFMON, or CAP_SYS_ADMIN where kernel.perf_event_paranoid is above 2, and a kernel that is not locked down)", p.function, err)
	case err != nil:
		return -1, fmt.Errorf("probing %s: %w", p.function, os.NewSyscallError("perf_event_open", err))
	}
	return fd, nil
}

// Count is what calls since the start have moved it, [PerCall] each; ops that the kernel refused count too. That a
// processor came or went moves it, since what ran there may not have been counted.
func (c *Changes) Count() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.readOnline()
	if err != nil {
		return 0, fmt.Errorf("ipvs: counting changes of the table: %w", err)
	}
	sum, err := c.sum()
	if err == nil && now != c.online {
		c.close()
		c.before = sum + 1
		if err = c.open(); err == nil {
			sum, err = c.sum()
			c.poke()
		}
	}
	if err != nil {
		return 0, fmt.Errorf("ipvs: counting changes of the table: %w", err)
	}
	return sum, nil
}

// sum reads a group for each processor: how many counters there are, and each.
func (c *Changes) sum() (uint64, error) {
	var buf [64]byte
	total := c.before
	for _, g := range c.groups {
		n, err := unix.Read(g.leader, buf[:])
		if err != nil {
			return 0, os.NewSyscallError("read", err)
		}
		for at := 8; at+8 <= n; at += 8 {
			total += binary.NativeEndian.Uint64(buf[at:])
		}
	}
	return total, nil
}

// Changed holds one token when there were calls since the last one was taken.
func (c *Changes) Changed() <-chan struct{} { return c.changed }

// quiet is how long after a wake-up nobody waits for the next: thousands of calls are a few wake-ups. The
// ring of a processor is full after 256 of them, and takes none of the rest until it is emptied.
const quiet = 10 * time.Millisecond

// wait hands on that there were calls, at no cost while there are none.
func (c *Changes) wait() {
	defer close(c.done)
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return
		}
		fds := []unix.PollFd{{Fd: int32(c.wake), Events: unix.POLLIN}}
		for _, g := range c.groups {
			fds = append(fds, unix.PollFd{Fd: int32(g.leader), Events: unix.POLLIN})
		}
		c.mu.Unlock()
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return // Count goes on; there is no way to tell, and no reason known
		}
		c.mu.Lock()
		var buf [8]byte
		_, _ = unix.Read(c.wake, buf[:])
		called := false
		for _, g := range c.groups {
			called = g.empty() || called
		}
		c.mu.Unlock()
		switch {
		case called:
			select {
			case c.changed <- struct{}{}:
			default:
			}
			time.Sleep(quiet)
		case fds[0].Revents == 0:
			time.Sleep(time.Second) // a processor that went away may hang up; Count finds that out
		}
	}
}

// empty takes all events out of the ring and says whether there were any. It comes before anybody is
// told, so that a later call finds room and wakes again.
func (g group) empty() bool {
	page := (*unix.PerfEventMmapPage)(unsafe.Pointer(&g.ring[0]))
	head := atomic.LoadUint64(&page.Data_head)
	if head == page.Data_tail {
		return false
	}
	atomic.StoreUint64(&page.Data_tail, head)
	return true
}

// poke has wait look at the groups anew.
func (c *Changes) poke() { _, _ = unix.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Close ends the counting.
func (c *Changes) Close() error {
	c.mu.Lock()
	c.closed = true
	c.poke()
	c.mu.Unlock()
	<-c.done
	c.close()
	_ = unix.Close(c.wake)
	return os.NewSyscallError("close", unix.Close(c.cpus))
}

func (c *Changes) close() {
	for _, g := range c.groups {
		if g.ring != nil {
			_ = unix.Munmap(g.ring)
		}
		for _, fd := range append(g.others, g.leader) {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}
	c.groups = nil
}

func (c *Changes) readOnline() (string, error) {
	var buf [4096]byte
	n, err := unix.Pread(c.cpus, buf[:], 0)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", cpusOnline, err)
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// parseCPUs reads a list as the kernel writes it: "0-3,8".
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err = errors.Join(err, err2); err != nil || last < first {
			return nil, fmt.Errorf("reading %s: a list of processors is not %q", cpusOnline, list)
		}
		for cpu := first; cpu <= last; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}
