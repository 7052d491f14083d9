package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long a Watch lets the notifications of further transactions come together.
const settle = 10 * time.Millisecond

// Watch tells of transactions on the nftables of one network namespace, whosever: that there was one,
// not what it did. [Conn.Generation] says whether anything is different from what was read.
type Watch struct {
	conn    *netlink.Conn
	changed chan struct{}
	done    chan struct{}
}

// OpenWatch watches the network namespace of the calling thread.
func OpenWatch() (*Watch, error) {
	const group = 1 << (unix.NFNLGRP_NFTABLES - 1)
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: group})
	if err != nil {
		return nil, fmt.Errorf("listening for changes of nftables: %w", err)
	}
	w := &Watch{conn: conn, changed: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// Changed holds one token when there were transactions since the last one was taken.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// run takes of a notification only that there is one, so those that are lost to a full socket cost nothing.
func (w *Watch) run() {
	defer close(w.done)
	for {
		if _, err := w.conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
		time.Sleep(settle)
	}
}

// Close ends the watching.
func (w *Watch) Close() error {
	err := w.conn.Close()
	<-w.done
	return err
}
