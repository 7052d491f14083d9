package ipvs

// What the tests outside the package look at.
var (
	ParseService = parseService
	ParseReal    = parseReal
	ParseDaemon  = parseDaemon
	Check        = checkOp
	SameServices = sameServices
)

// Settle is settle with sameReals.
func Settle(read func() ([]RealInfo, bool, error)) ([]RealInfo, error) {
	return settle(read, sameReals)
}

// EncodeOp gives the message of an op.
func EncodeOp(op Op) []byte { return appendOp(nil, 0x20, 7, &op) }

// OpMax is the longest message that the writer allows for.
const OpMax = opMax

// CutAll takes a datagram apart and gives the number of its messages.
func CutAll(datagram []byte) (n int, err error) {
	for len(datagram) > 0 {
		var m message
		if m, datagram, err = cut(datagram); err != nil {
			return n, err
		}
		_ = m.result()
		_, _ = m.payload()
		n++
	}
	return n, nil
}

// ForgetSocket does what a lost answer does: the next call has to connect again.
func (c *Conn) ForgetSocket() { c.disconnect() }

// Sequence sets the number before the next request's.
func (c *Conn) Sequence(n uint32) { c.seq = n }

// ReceiveBuffer makes the socket's receive buffer twice n bytes, as an unprivileged program may.
func (c *Conn) ReceiveBuffer(n int) error {
	return c.sock.SetReceiveBufferSize(n, false)
}

// CountConnections is what Connections makes of the text of /proc/net/ip_vs_conn.
var CountConnections = countConnections
