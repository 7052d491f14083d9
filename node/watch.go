package node

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long a watcher lets further notifications come together after one: on a node where pods
// come and go, or while virtual addresses are put on the dummy device, there are thousands.
const settle = 20 * time.Millisecond

type watcher struct {
	conn    *nl.Conn
	changed chan struct{}
	done    chan struct{}
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
	last, err := n.look()
	if err != nil {
		return nil, errors.Join(err, w.conn.Close())
	}
	n.watcher = w
	go w.run(last, n.look)
	return w.changed, nil
}

// seen is what is watched.
type seen struct {
	addresses []netip.Addr
	device    Device
}

func (n *Node) look() (seen, error) {
	links, addrs, err := n.list()
	if err != nil {
		return seen{}, fmt.Errorf("listing the node's addresses: %w", err)
	}
	s := seen{addresses: nodeAddresses(links, addrs)}
	if s.device, err = device(links, addrs); err != nil {
		return s, err
	}
	// Each pod that comes or goes brings a link-local address, and none of them is a virtual one.
	s.device.Elsewhere = slices.DeleteFunc(s.device.Elsewhere, netip.Addr.IsLinkLocalUnicast)
	slices.SortFunc(s.device.Elsewhere, netip.Addr.Compare)
	slices.SortFunc(s.device.Proxied, netip.Addr.Compare)
	return s, nil
}

// run compares with what there is: of a notification it only takes that there is one. So one that was
// lost to a full socket (ENOBUFS) costs nothing.
func (w *watcher) run(last seen, read func() (seen, error)) {
	defer close(w.done)
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
			look()
			time.Sleep(settle)
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

func (w *watcher) close() error {
	err := w.conn.Close()
	<-w.done
	return err
}
