package probe

import (
	"context"
	"net"
	"net/netip"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Run tests one endpoint from this node: nil when it passes, else an [*Error]. The whole test takes as long as the
// context allows, so give it a deadline. A port in the probe goes before the endpoint's own. A probe that has no kind
// is an error: it would prove nothing.
//
// Nothing is sent to anybody but the endpoint: no proxy, no redirect. Each test is a connection of its own.
func Run(ctx context.Context, p *v1alpha1.Probe, to netip.AddrPort) error {
	if err := run(ctx, p, to); err != nil {
		return err
	}
	return nil
}

func run(ctx context.Context, p *v1alpha1.Probe, to netip.AddrPort) *Error {
	switch {
	case p.TCP != nil:
		return runTCP(ctx, at(to, p.TCP.Port))
	case p.HTTP != nil:
		return runHTTP(ctx, p.HTTP, at(to, p.HTTP.Port))
	case p.TLS != nil:
		return runTLS(ctx, p.TLS, at(to, p.TLS.Port))
	case p.GRPC != nil:
		return runGRPC(ctx, p.GRPC, at(to, p.GRPC.Port))
	}
	return seen(nil, "the probe has no kind: give one of tcp, http, tls, grpc")
}

func at(to netip.AddrPort, port *int32) netip.AddrPort {
	if port == nil {
		return to
	}
	return netip.AddrPortFrom(to.Addr(), uint16(*port))
}

// runTCP passes when the connection opens. What the peer does then is no part of it: one whose kernel accepts for a
// program that never does passes, and one that resets each connection does unless the reset is quicker than we are.
func runTCP(ctx context.Context, to netip.AddrPort) *Error {
	conn, err := dial(ctx, to)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return nil
}

// dial opens a connection that dies with the context's deadline.
func dial(ctx context.Context, to netip.AddrPort) (net.Conn, *Error) {
	d := net.Dialer{KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, unconnected(err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return conn, nil
}
