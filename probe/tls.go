package probe

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strconv"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// runTLS passes when the handshake completes, which proves that the peer holds its certificate's key, when the
// certificate is valid at this time, and, with a serverName, when it is for that name. The issuer is not looked at:
// who the clients trust is not known here.
//
// A server that demands a client's certificate passes with TLS 1.3 and fails with 1.2, where the handshake includes it.
func runTLS(ctx context.Context, p *v1alpha1.TLSProbe, to netip.AddrPort) *Error {
	conn, fault := handshake(ctx, to, &tls.Config{
		ServerName:         p.ServerName,
		InsecureSkipVerify: true, // the issuer; the rest is verified below
	})
	if fault != nil {
		return fault
	}
	defer func() { _ = conn.NetConn().Close() }() // without a close_notify, which would wait for a peer that does not read
	certificate := conn.ConnectionState().PeerCertificates[0]
	now := time.Now()
	switch {
	case now.After(certificate.NotAfter):
		return seen(nil, "TLS certificate expired at %s", certificate.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(certificate.NotBefore):
		return seen(nil, "TLS certificate is not valid before %s", certificate.NotBefore.UTC().Format(time.RFC3339))
	}
	if p.ServerName != "" {
		if err := certificate.VerifyHostname(p.ServerName); err != nil {
			return seen(err, "TLS certificate is not for %s: %s", quote(p.ServerName), cause(err))
		}
	}
	return nil
}

// handshake gives a connection whose TLS handshake is complete.
func handshake(ctx context.Context, to netip.AddrPort, config *tls.Config) (*tls.Conn, *Error) {
	plain, fault := dial(ctx, to)
	if fault != nil {
		return nil, fault
	}
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, words(err, "the end of the TLS handshake")
	}
	return conn, nil
}

func quote(text string) string {
	if len(text) > shown {
		return strconv.Quote(text[:shown]) + "…"
	}
	return strconv.Quote(text)
}
