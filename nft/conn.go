package nft

import (
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrUnsupported is a kernel without what the table needs.
var ErrUnsupported = errors.New("the kernel has no usable nftables: it takes Linux 5.2 with nf_tables, nft_chain_nat, nft_ct, " +
	"nft_masq and nft_fib_inet (try `modprobe nf_tables`)")

// errBusy is a namespace whose nftables another program changes faster than they can be read.
var errBusy = errors.New("nftables kept changing while they were read")

// Conn is the table in one network namespace. It is safe for concurrent use.
type Conn struct {
	mu    sync.Mutex
	nl    *netlink.Conn
	await func() // awaitPackets
}

// Open is the table of the network namespace of the calling thread; where the Conn is used later
// does not matter. The error is ErrUnsupported when the kernel has no nftables; it takes CAP_NET_ADMIN.
func Open() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, ErrUnsupported
		}
		return nil, fmt.Errorf("opening a socket to nf_tables: %w", err)
	}
	c := &Conn{nl: nl, await: awaitPackets}
	if _, err := c.Generation(); err != nil {
		_ = nl.Close()
		return nil, err
	}
	return c, nil
}

// Close gives the socket back. The table stays.
func (c *Conn) Close() error { return c.nl.Close() }

// Generation is a number that changes with every transaction on the namespace's nftables, whosever. While
// it is the one that a [State] had, the table is as it was then. It costs one short exchange.
func (c *Conn) Generation() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation()
}

func (c *Conn) generation() (uint32, error) {
	answer, err := c.dump(unix.NFT_MSG_GETGEN, 0)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		// nfnetlink's answer when no module serves the subsystem (nfnetlink_rcv_msg).
		return 0, ErrUnsupported
	case errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("asking nftables for their generation: %w (it takes CAP_NET_ADMIN)", err)
	case err != nil:
		return 0, fmt.Errorf("asking nftables for their generation: %w", err)
	}
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return 0, fmt.Errorf("reading nftables' generation: %w", err)
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), ad.Err()
			}
		}
	}
	return 0, errors.New("nftables told no generation")
}

// Apply makes the table want's and gives back what it did about it, in one transaction: nothing when the
// table was right. Another program's change in between is met by reading again.
func (c *Conn) Apply(want Ruleset) ([]Op, error) { return apply(c, want) }

// Commit makes all of the ops one transaction: all take effect at once, or none does and the error says
// which could not. It is os.ErrNotExist when an element, or the table, that they build on is gone.
//
// When Steering is among what they change, it returns only when no packet is under way any more that was marked, or
// left unmarked, by the rules before: the caller's next deed may be to lower the weights of where those rules sent
// it, and IPVS refuses a packet that finds every weight at 0. It takes some milliseconds, up to 50.
func (c *Conn) Commit(ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	messages, err := marshal(ops)
	if err != nil {
		return err
	}
	c.mu.Lock()
	err = c.batch(messages)
	c.mu.Unlock()
	switch {
	case err == nil:
		if changesSteering(ops) {
			c.await()
		}
		return nil
	case ops[0].Verb == AddTable && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)):
		// A transaction that makes the whole table builds on nothing: what is missing is the kernel's.
		return fmt.Errorf("%w: making table inet %s: %w", ErrUnsupported, Table, err)
	}
	return fmt.Errorf("changing table inet %s (%d changes): %w", Table, len(ops), err)
}

// Delete removes the table; that there is none is no error, and nothing is written then.
func (c *Conn) Delete() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.dump(unix.NFT_MSG_GETTABLE, 0, str(unix.NFTA_TABLE_NAME, Table))
	if err == nil {
		var m netlink.Message
		if m, err = message(unix.NFT_MSG_DELTABLE, 0, []netlink.Attribute{str(unix.NFTA_TABLE_NAME, Table)}); err == nil {
			err = c.batch([]netlink.Message{m})
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting table inet %s: %w", Table, err)
	}
	return nil
}

// reader is what apply needs; the Fake's is the same.
type reader interface {
	Read() (Ruleset, State, error)
	Commit([]Op) error
}

func apply(t reader, want Ruleset) ([]Op, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		have, state, err := t.Read()
		if err != nil {
			return nil, err
		}
		ops := Diff(want, have, state.Intact)
		err = t.Commit(ops)
		if err == nil {
			return ops, nil
		}
		// The table or an element of it was deleted since it was read.
		if errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.ENOENT) || try == 5 {
			return nil, err
		}
	}
}
