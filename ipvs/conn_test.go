package ipvs

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// controller gives a Conn that talks to nlctrl, which every kernel has.
func controller(t *testing.T) *Conn {
	t.Helper()
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_GENERIC)
	require.NoError(t, err)
	ns, err := netns.Get()
	require.NoError(t, err)
	c := &Conn{ns: ns, sock: sock, in: make([]byte, receiveBuffer)}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// askFor puts a question about a family into c.out; nlctrl itself has number 0x10.
func askFor(c *Conn, family string) {
	c.seq++
	c.out = beginMessage(c.out[:0], nl.GENL_ID_CTRL, unix.NLM_F_REQUEST, c.seq, nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION)
	c.out = appendString(c.out, nl.GENL_CTRL_ATTR_FAMILY_NAME, family)
	endMessage(c.out, 0)
}

// The answer to an earlier request must not be taken for that to the next.
func TestStaleAnswerIsPassedOver(t *testing.T) {
	c := controller(t)
	askFor(c, "no such family") // its answer, an error, stays in the socket
	require.NoError(t, c.send())
	askFor(c, "nlctrl")
	var name string
	require.NoError(t, c.ask(context.Background(), func(payload []byte) error {
		value, err := nested(payload, nl.GENL_CTRL_ATTR_FAMILY_NAME)
		name = string(value)
		return err
	}))
	assert.Equal(t, "nlctrl\x00", name)
}

// A kernel that does not answer costs no more than the context allows, and the socket, so that an answer
// that comes late finds nobody.
func TestSilenceEndsWithTheContext(t *testing.T) {
	c := controller(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := c.dumpAnswers(ctx)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(start), 2*time.Second)
	assert.Nil(t, c.sock)
}

// dumpAnswers waits for the answers to a dump that was never asked for.
func (c *Conn) dumpAnswers(ctx context.Context) (int, error) {
	c.out = c.out[:0]
	n := 0
	_, err := c.collect(ctx, func(int, []byte) error { n++; return nil })
	return n, err
}

// A malformed answer is an error and not a success without content.
func TestMalformedAnswerCostsTheSocket(t *testing.T) {
	c := controller(t)
	askFor(c, "nlctrl")
	err := c.ask(context.Background(), func([]byte) error { return errMalformed })
	assert.ErrorIs(t, err, errMalformed)
	assert.Nil(t, c.sock)
}

func TestClosedTwice(t *testing.T) {
	c := controller(t)
	require.NoError(t, c.Close())
	assert.ErrorIs(t, c.Close(), os.ErrClosed)
	assert.ErrorIs(t, c.begin(context.Background()), os.ErrClosed)
}
