package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The transport is our own, the vocabulary (expressions, set types, user data) is google/nftables'. Its
// Conn asks for an echo of every rule and then takes the second datagram of echoes for a failure, leaves
// out the direction of the ct keys that an inet table needs, drops the expressions that it doesn't
// know from what it reads, and knows no comment of a table or a chain.

// deadline bounds every exchange: a socket that a bug leaves without its answer must not hang the pass.
const deadline = 20 * time.Second

// decoder is over a message's attributes, past its struct nfgenmsg.
func decoder(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < 4 {
		return nil, errors.New("an nf_tables message is too short")
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	return ad, nil
}

// dump sends one request for a list, or for one object, and gives back the answers.
func (c *Conn) dump(command int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	m, err := message(command, flags, attrs)
	if err != nil {
		return nil, err
	}
	if err := c.nl.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	answer, err := c.nl.Execute(m)
	if err != nil {
		c.drain()
	}
	return answer, err
}

// batch sends the messages as one transaction: all take effect, or none does.
func (c *Conn) batch(messages []netlink.Message) error {
	begin := netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
	end := begin
	end.Header.Type = unix.NFNL_MSG_BATCH_END
	// One acknowledgement, of the last message, stands for all; one that fails is answered whatever its flags.
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	all := append([]netlink.Message{begin}, messages...)
	all = append(all, end)

	size := 0
	for _, m := range all {
		size += len(m.Data) + 32
	}
	// The kernel takes a transaction only as one datagram.
	if err := c.nl.SetWriteBuffer(max(2*size, 1<<18)); err != nil {
		return fmt.Errorf("making room for a transaction of %d bytes: %w", size, err)
	}
	if err := c.nl.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	if _, err := c.nl.SendMessages(all); err != nil {
		return err
	}
	_, err := c.nl.Receive()
	if err != nil {
		c.drain()
	}
	return err
}

// drain takes what is left of a failed exchange off the socket, lest the next one takes it for its own
// answer. The kernel answers before the send returns, so whatever will come is there already.
func (c *Conn) drain() {
	raw, err := c.nl.SyscallConn()
	if err != nil || c.nl.SetReadDeadline(time.Time{}) != nil {
		return
	}
	var b [1]byte // what does not fit of a datagram is dropped with it
	_ = raw.Read(func(fd uintptr) bool {
		for {
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT)
			if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
				return true
			}
		}
	})
}
