package node

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long a watcher lets further notifications come together after one, or settleCost times what looking
// took: on a node where pods come and go, or while virtual addresses are put on the dummy device, there are thousands.
const (
	settle     = 20 * time.Millisecond
	settleCost = 5
)

type watcher struct {
	conn    *nl.Conn
	changed chan struct{}
	done    chan struct{}

	// The last reading, for as long as the kernel has told of no change after it. With a thousand virtual addresses
	// a reading costs milliseconds, and nearly all passes find the same.
	mu    sync.Mutex
	moved uint64   // changes that were told of, and ends of our own writing
	last  *reading // nil: read it
	ended bool     // nothing is told any more
}

// reading is what a listing of interfaces and addresses gave. Whoever gets it must not change it.
type reading struct {
	addresses []netip.Addr
	device    Device
	err       error // of device
}

// forget has the next reading be made anew.
func (w *watcher) forget() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved++
	w.last = nil
}

func (w *watcher) known() (last *reading, moved uint64) {
	if w == nil {
		return nil, 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.moved
}

// keep keeps a reading that was begun when there had been so many changes.
func (w *watcher) keep(r *reading, moved uint64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved == moved && !w.ended {
		w.last = r
	}
}

// read lists interfaces and addresses, unless they are as last listed as far as the kernel tells.
func (n *Node) read() (*reading, error) {
	n.mu.Lock()
	w := n.watcher
	n.mu.Unlock()
	last, moved := w.known()
	if last != nil {
		return last, nil
	}
	r, err := n.readAnew()
	if err != nil {
		return nil, err
	}
	w.keep(r, moved)
	return r, nil
}

func (n *Node) readAnew() (*reading, error) {
	links, addrs, err := n.list()
	if err != nil {
		return nil, err
	}
	r := &reading{addresses: nodeAddresses(links, addrs)}
	r.device, r.err = device(links, addrs)
	return r, nil
}

// Changed is a channel, of size one, that gets a value whenever [Node.Addresses] or [Node.ReadDevice] would give
// another answer: there is something to look at, not what. What pointsman itself does to the device is told too. The
// first call begins the watching; it ends with Close.
func (n *Node) Changed() (<-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher != nil {
		return n.watcher.changed, nil
	}
	w := &watcher{changed: make(chan struct{}, 1), done: make(chan struct{})}
	err := n.in(func() (err error) {
		w.conn, err = nl.Dial(unix.NETLINK_ROUTE, &nl.Config{
			Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening for changes of addresses: %w", err)
	}
	// From here on nothing is missed: what changes after this reading is notified.
	first, err := n.readAnew()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listing the node's addresses: %w", err), w.conn.Close())
	}
	if first.err != nil {
		return nil, errors.Join(first.err, w.conn.Close())
	}
	w.last, n.watcher = first, w
	go w.run(seenOf(first), n.look)
	return w.changed, nil
}

// seen is what is watched.
type seen struct {
	addresses []netip.Addr
	device    Device
}

func (n *Node) look() (seen, error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	r, err := n.read()
	if err != nil {
		return seen{}, fmt.Errorf("listing the node's addresses: %w", err)
	}
	return seenOf(r), r.err
}

func seenOf(r *reading) seen {
	s := seen{r.addresses, r.device}
	// Each pod that comes or goes brings a link-local address, and none of them is a virtual one.
	s.device.Elsewhere = slices.DeleteFunc(slices.Clone(s.device.Elsewhere), netip.Addr.IsLinkLocalUnicast)
	s.device.Proxied = slices.Clone(s.device.Proxied)
	slices.SortFunc(s.device.Elsewhere, netip.Addr.Compare)
	slices.SortFunc(s.device.Proxied, netip.Addr.Compare)
	return s
}

// run compares with what there is: of a notification it only takes that there is one. So one that was
// lost to a full socket (ENOBUFS) costs nothing.
func (w *watcher) run(last seen, read func() (seen, error)) {
	defer close(w.done)
	defer w.end()
	look := func() {
		now, err := read()
		// What can't be read may have changed.
		if err == nil && reflect.DeepEqual(now, last) {
			return
		}
		last = now
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	for {
		_ = w.conn.SetReadDeadline(time.Time{})
		if !w.receive() {
			return
		}
		for more := true; more; {
			w.forget()
			began := time.Now()
			look()
			time.Sleep(max(settle, settleCost*time.Since(began)))
			more = false
			_ = w.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			for w.receive() {
				more = true
			}
		}
	}
}

// receive takes what is there, waits for it until the deadline, and says whether there was anything.
func (w *watcher) receive() bool {
	_, err := w.conn.Receive()
	return err == nil || errors.Is(err, unix.ENOBUFS)
}

func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.ended = nil, true
}

func (w *watcher) close() error {
	err := w.conn.Close()
	<-w.done
	return err
}
