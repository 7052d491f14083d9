package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

const (
	// maxBody is how much of an answer's body is read, and looked through for the text that it must contain.
	maxBody = 64 << 10
	// maxHeader bounds the answer's header.
	maxHeader = 64 << 10

	userAgent = "pointsman-probe"
)

// runHTTP makes one GET. Certificates are not verified, as in kubelet's probes: a Pod's is for the name that users
// know, by an issuer that the node does not. A redirect is an answer like any other. The host's name, if it is one, is
// the SNI too.
func runHTTP(ctx context.Context, p *v1alpha1.HTTPProbe, to netip.AddrPort) *Error {
	request, fault := getRequest(ctx, p, to)
	if fault != nil {
		return fault
	}
	// Made here and not by the transport, which says no more than "late" of a connection that was not ready in time.
	var conn net.Conn
	if p.Scheme == "HTTPS" {
		conn, fault = handshake(ctx, to, &tls.Config{
			ServerName:         sni(request.Host),
			InsecureSkipVerify: true,
			NextProtos:         []string{"h2", "http/1.1"},
		})
	} else {
		conn, fault = dial(ctx, to)
	}
	if fault != nil {
		return fault
	}
	defer func() { _ = conn.Close() }()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	cause := func(err error) error { return err }
	if p.Scheme != "HTTPS" { // else the transport has to see the TLS connection itself
		m := &mute{Conn: conn}
		conn, cause = m, m.cause
	}
	answer, err := over(conn, &protocols).RoundTrip(request)
	if err != nil {
		return words(cause(err), "an HTTP answer")
	}
	defer func() { _ = answer.Body.Close() }()

	want := v1alpha1.DefaultProbeStatus
	if p.Status != nil {
		want = int(*p.Status)
	}
	if answer.StatusCode != want {
		fault := seen(nil, "HTTP status %d, want %d", answer.StatusCode, want)
		if to := answer.Header.Get("Location"); to != "" {
			fault.Detail = "it redirects to " + begins([]byte(to))[len("begins "):]
		} else if start, err := io.ReadAll(io.LimitReader(answer.Body, shown+1)); err == nil {
			fault.Detail = "body " + begins(start)
		}
		return fault
	}
	if p.Body == "" {
		return nil
	}
	return contains(answer.Body, p.Body)
}

// contains reads no further than it must.
func contains(body io.Reader, want string) *Error {
	got := make([]byte, 0, 4<<10)
	for len(got) < maxBody {
		if len(got) == cap(got) {
			got = append(got, 0)[:len(got)]
		}
		n, err := body.Read(got[len(got):min(cap(got), maxBody)])
		from := max(0, len(got)-len(want)) // the text may lie across two reads
		got = got[:len(got)+n]
		if bytes.Contains(got[from:], []byte(want)) {
			return nil
		}
		if err == io.EOF {
			return &Error{Seen: "HTTP body lacks " + quote(want), Detail: "it " + begins(got)}
		}
		if err != nil {
			return words(err, "the end of the HTTP body")
		}
	}
	return &Error{Seen: "HTTP body lacks " + quote(want) + " in its first 64 KiB", Detail: "it " + begins(got)}
}

func getRequest(ctx context.Context, p *v1alpha1.HTTPProbe, to netip.AddrPort) (*http.Request, *Error) {
	scheme, path := "http", p.Path
	if p.Scheme == "HTTPS" {
		scheme = "https"
	}
	if path == "" {
		path = v1alpha1.DefaultProbePath
	}
	host := netip.AddrPortFrom(to.Addr().WithZone(""), to.Port()).String()
	address, err := url.Parse(scheme + "://" + host + path)
	if err != nil {
		return nil, seen(err, "the probe's path %s is not one: %s", quote(path), cause(err))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, seen(err, "no HTTP request can be made of the probe: %s", cause(err))
	}
	if request.Host = p.Host; p.Host == "" {
		request.Host = host
	}
	request.Header.Set("User-Agent", userAgent)
	return request, nil
}

// errAgain is a request that the server gave back, to be made on another connection.
var errAgain = errors.New("the server would not take the request")

// over is a transport for one request, on a connection that is made already.
func over(conn net.Conn, protocols *http.Protocols) *http.Transport {
	var taken atomic.Bool
	take := func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, errAgain
		}
		return conn, nil
	}
	return &http.Transport{
		Protocols:              protocols,
		DialContext:            take,
		DialTLSContext:         take,
		DisableKeepAlives:      true,
		DisableCompression:     true, // else a small answer may be a large body
		MaxResponseHeaderBytes: maxHeader,
	}
}

// mute is a connection that remembers how it ended while the peer had not said a thing. net/http does not always tell:
// of HTTP/2 it may say no more than that the connection was of no use.
type mute struct {
	net.Conn
	mu    sync.Mutex
	heard bool
	ended error
}

func (m *mute) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.note(n, err)
	return n, err
}

func (m *mute) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	m.note(0, err)
	return n, err
}

func (m *mute) note(heard int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = m.heard || heard > 0
	if m.ended == nil && !m.heard && !errors.Is(err, net.ErrClosed) {
		m.ended = err
	}
}

// cause is why no answer came: err, or how the connection ended without a word.
func (m *mute) cause(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended != nil {
		return m.ended
	}
	return err
}

// sni is the name in a Host header, or "" when it is an address, which SNI cannot carry.
func sni(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}
