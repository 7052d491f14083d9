package probe_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/probe"
)

func tcp() *v1alpha1.Probe { return &v1alpha1.Probe{TCP: &v1alpha1.TCPProbe{}} }

func get(p v1alpha1.HTTPProbe) *v1alpha1.Probe { return &v1alpha1.Probe{HTTP: &p} }

func tlsFor(name string) *v1alpha1.Probe {
	return &v1alpha1.Probe{TLS: &v1alpha1.TLSProbe{ServerName: name}}
}

func grpcOf(service string) *v1alpha1.Probe {
	return &v1alpha1.Probe{GRPC: &v1alpha1.GRPCProbe{Service: service}}
}

func ptr[T any](v T) *T { return &v }

// says wants exactly these words, which an operator reads.
func wantSeen(t *testing.T, err error, text string) {
	t.Helper()
	require.Error(t, err)
	assert.Equal(t, text, err.Error())
}

func TestTCP(t *testing.T) {
	assert.NoError(t, probe.Run(patient(t), tcp(), listen(t, hang)))
	if err := probe.Run(patient(t), tcp(), listen(t, reset)); err != nil { // it depends on who is quicker
		wantSeen(t, err, "connection reset")
	}

	err := probe.Run(patient(t), tcp(), nobody(t))
	wantSeen(t, err, "connection refused")
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)

	err = probe.Run(brief(t), tcp(), full(t))
	wantSeen(t, err, "no connection in time")
	// Whichever is the first to see it: the socket's deadline or the context.
	assert.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded), "%#v", err)

	wantSeen(t, probe.Run(patient(t), &v1alpha1.Probe{}, nobody(t)), "the probe has no kind: give one of tcp, http, tls, grpc")
}

func TestOwnPortGoesFirst(t *testing.T) {
	good, bad := listen(t, hang), nobody(t)
	port := ptr(int32(good.Port()))
	assert.NoError(t, probe.Run(patient(t), &v1alpha1.Probe{TCP: &v1alpha1.TCPProbe{Port: port}}, bad))
	web := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Port: ptr(int32(web.Port()))}), bad))
	secure := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, -time.Hour, time.Hour)}})
	assert.NoError(t, probe.Run(patient(t), &v1alpha1.Probe{TLS: &v1alpha1.TLSProbe{Port: ptr(int32(secure.Port()))}}, bad))
	call, _ := serveHealth(t)
	assert.NoError(t, probe.Run(patient(t), &v1alpha1.Probe{GRPC: &v1alpha1.GRPCProbe{Port: ptr(int32(call.Port()))}}, bad))
}

func TestHTTPAsksWhatTheProbeSays(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	to := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		w.WriteHeader(http.StatusNoContent)
	})
	require.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Host: "shop.example:8080", Path: "/live?deep=1", Status: ptr(int32(204))}), to))
	r := asked.Load()
	assert.Equal(t, "GET shop.example:8080 /live?deep=1", r.Method+" "+r.Host+" "+r.URL.RequestURI())
	assert.True(t, r.Close, "no connection is kept")
	assert.Empty(t, r.Header.Get("Accept-Encoding"))

	require.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Status: ptr(int32(204))}), to))
	assert.Equal(t, to.String()+" /", asked.Load().Host+" "+asked.Load().URL.Path)
	wantSeen(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/%zz"}), to), `the probe's path "/%zz" is not one: invalid URL escape "%zz"`)
}

func TestHTTPStatus(t *testing.T) {
	to := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/down":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, "database\nis away")
		}
	})
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{}), to))
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/away", Status: ptr(int32(302))}), to))
	wantSeen(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/away"}), to), `HTTP status 302, want 200: it redirects to "/"`)
	wantSeen(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/down"}), to), `HTTP status 503, want 200: body begins "database\nis away"`)
	wantSeen(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Status: ptr(int32(404))}), to), `HTTP status 200, want 404: body empty`)
}

func TestHTTPBody(t *testing.T) {
	to := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/split": // the text lies across two reads
			_, _ = fmt.Fprint(w, strings.Repeat(".", 4095)+"o")
			w.(http.Flusher).Flush()
			_, _ = fmt.Fprint(w, "k")
		case "/endless":
			junk := bytes.Repeat([]byte("na"), 16<<10)
			for {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		case "/early": // and then hangs
			_, _ = fmt.Fprint(w, "it is ok")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/umlaut":
			_, _ = fmt.Fprint(w, strings.Repeat("x", 79)+"ü and so on")
		case "/short":
			w.Header().Set("Content-Length", "100")
			_, _ = fmt.Fprint(w, "nothing")
		default:
			_, _ = fmt.Fprint(w, "sorry")
		}
	})
	ask := func(path string) error {
		return probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: path, Body: "ok"}), to)
	}
	assert.NoError(t, ask("/split"))
	assert.NoError(t, ask("/early"))
	wantSeen(t, ask("/"), `HTTP body lacks "ok": it begins "sorry"`)
	wantSeen(t, ask("/endless"), `HTTP body lacks "ok" in its first 64 KiB: it begins "`+strings.Repeat("na", 40)+`"…`)
	wantSeen(t, ask("/umlaut"), `HTTP body lacks "ok": it begins "`+strings.Repeat("x", 79)+`"…`)
	wantSeen(t, ask("/short"), `connection closed before the end of the HTTP body`)
	// Without a body to look for, none is waited for.
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/early"}), to))
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Path: "/endless"}), to))
}

// What kinds of peers do that are no HTTP, TLS or gRPC servers, or none any more.
func TestBrokenPeers(t *testing.T) {
	kinds := map[string]*v1alpha1.Probe{"http": get(v1alpha1.HTTPProbe{}), "https": get(v1alpha1.HTTPProbe{Scheme: "HTTPS"}), "tls": tlsFor(""), "grpc": grpcOf("")}
	closed := func(c net.Conn) { says("")(c) }
	for _, c := range []struct {
		peer  string
		serve func(net.Conn)
		brief bool
		seen  map[string]string
	}{
		{"closes", closed, false, map[string]string{
			"http": "connection closed before an HTTP answer", "https": "connection closed before the end of the TLS handshake",
			"tls": "connection closed before the end of the TLS handshake", "grpc": "connection closed before a gRPC answer",
		}},
		{"resets", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); reset(c) }, false, map[string]string{
			"http": "connection reset before an HTTP answer", "https": "connection reset before the end of the TLS handshake",
			"tls": "connection reset before the end of the TLS handshake", "grpc": "connection reset before a gRPC answer",
		}},
		{"hangs", hang, true, map[string]string{
			"http": "accepts, but an HTTP answer did not come in time", "https": "accepts, but the end of the TLS handshake did not come in time",
			"tls": "accepts, but the end of the TLS handshake did not come in time", "grpc": "accepts, but a gRPC answer did not come in time",
		}},
		{"mumbles", says("+OK POP3 ready\r\n"), false, map[string]string{
			"http": "no proper HTTP answer", "https": "does not speak TLS", "tls": "does not speak TLS", "grpc": "no proper gRPC answer",
		}},
		{"rants", func(c net.Conn) { _, _ = io.Copy(c, endless{}) }, false, map[string]string{
			"http": "no proper HTTP answer", "https": "does not speak TLS", "tls": "does not speak TLS", "grpc": "no proper gRPC answer",
		}},
		{"speaks HTTP/1", says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), false, map[string]string{
			"https": "does not speak TLS", "tls": "does not speak TLS", "grpc": "no proper gRPC answer",
		}},
	} {
		to := listen(t, c.serve)
		for kind, want := range c.seen {
			t.Run(c.peer+"/"+kind, func(t *testing.T) {
				ctx := patient(t)
				if c.brief {
					ctx = brief(t)
				}
				err := probe.Run(ctx, kinds[kind], to)
				var fault *probe.Error
				require.ErrorAs(t, err, &fault)
				assert.Equal(t, want, fault.Seen, "%#v", fault.Err)
				assert.Less(t, len(err.Error()), 400)
			})
		}
	}
	for kind, p := range kinds {
		t.Run("is not there/"+kind, func(t *testing.T) {
			wantSeen(t, probe.Run(patient(t), p, nobody(t)), "connection refused")
		})
		t.Run("is dead/"+kind, func(t *testing.T) {
			wantSeen(t, probe.Run(brief(t), p, full(t)), "no connection in time")
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}

// A body that drips for ever ends with the context, also where no text is looked for.
func TestDrippingPeer(t *testing.T) {
	to := listen(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096)) // an answer to nothing is none
		_, _ = fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := c.Write([]byte(".")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	wantSeen(t, probe.Run(brief(t), get(v1alpha1.HTTPProbe{Body: "ok"}), to), "accepts, but the end of the HTTP body did not come in time")
}

func TestTLS(t *testing.T) {
	serve := func(c tls.Certificate) netip.AddrPort {
		return serveTLS(t, &tls.Config{Certificates: []tls.Certificate{c}})
	}
	good := serve(certificate(t, -time.Hour, time.Hour, "shop.example"))
	old := certificate(t, -2*time.Hour, -time.Hour, "shop.example")
	assert.NoError(t, probe.Run(patient(t), tlsFor(""), good), "by whom it was issued is not asked")
	assert.NoError(t, probe.Run(patient(t), tlsFor("shop.example"), good))
	wantSeen(t, probe.Run(patient(t), tlsFor("other.example"), good),
		`TLS certificate is not for "other.example": x509: certificate is valid for shop.example, not other.example`)

	err := probe.Run(patient(t), tlsFor(""), serve(old))
	require.Error(t, err)
	assert.Regexp(t, `^TLS certificate expired at 20..-..-..T..:..:..Z$`, err.Error())
	err = probe.Run(patient(t), tlsFor(""), serve(certificate(t, time.Hour, 2*time.Hour)))
	require.Error(t, err)
	assert.Regexp(t, `^TLS certificate is not valid before 20`, err.Error())

	var asked atomic.Value
	named := serveTLS(t, &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked.Store(hello.ServerName)
		c := certificate(t, -time.Hour, time.Hour, "shop.example")
		return &c, nil
	}})
	require.NoError(t, probe.Run(patient(t), tlsFor("shop.example"), named))
	assert.Equal(t, "shop.example", asked.Load())
	require.NoError(t, probe.Run(patient(t), tlsFor(""), named))
	assert.Equal(t, "", asked.Load())

	picky := serveTLS(t, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, fmt.Errorf("no") }})
	wantSeen(t, probe.Run(patient(t), tlsFor(""), picky), "refuses the TLS handshake: internal error")

	// HTTPS verifies nothing; the Host header's name is the SNI.
	secure := serveHTTPS(t, old, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.TLS.ServerName, " ", r.Proto) })
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Scheme: "HTTPS", Host: "other.example:443", Body: "other.example HTTP/2.0"}), secure))
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Scheme: "HTTPS", Host: "192.0.2.1", Body: " HTTP/2.0"}), secure))
}

// serveHealth is a server of the real gRPC.
func serveHealth(t *testing.T) (netip.AddrPort, *health.Server) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, h := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return addrOf(l), h
}

func TestGRPC(t *testing.T) {
	to, h := serveHealth(t)
	h.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("till", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus("odd", 7)
	assert.NoError(t, probe.Run(patient(t), grpcOf(""), to))
	assert.NoError(t, probe.Run(patient(t), grpcOf("shop"), to))
	wantSeen(t, probe.Run(patient(t), grpcOf("till"), to), `gRPC NOT_SERVING: service "till" is not serving`)
	wantSeen(t, probe.Run(patient(t), grpcOf("odd"), to), `gRPC: service "odd" has health status 7, want SERVING`)
	wantSeen(t, probe.Run(patient(t), grpcOf("none"), to), `gRPC NOT_FOUND: its health service does not know service "none"`)
	h.Shutdown()
	wantSeen(t, probe.Run(patient(t), grpcOf(""), to), `gRPC NOT_SERVING: the server is not serving`)
}

// What servers say that are not as they should be, over cleartext HTTP/2.
func TestGRPCBrokenServers(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := io.ReadAll(r.Body)
		name := strings.TrimLeft(string(request[5:]), "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c")
		w.Header().Set("Content-Type", "application/grpc")
		status := "0"
		switch name {
		case "web":
			w.Header().Set("Content-Type", "text/html")
		case "404":
			w.WriteHeader(http.StatusNotFound)
		case "cut":
			_, _ = w.Write([]byte{0, 0, 0, 0, 9, 8})
		case "compressed":
			_, _ = w.Write([]byte{1, 0, 0, 0, 2, 8, 1})
		case "garbled":
			_, _ = w.Write([]byte{0, 0, 0, 0, 1, 0xff})
		case "empty": // all fields at their defaults: UNKNOWN
			_, _ = w.Write([]byte{0, 0, 0, 0, 0})
		case "more": // a field of a later version goes before
			_, _ = w.Write([]byte{0, 0, 0, 0, 6, 0x12, 2, 'h', 'i', 8, 1})
		case "busy":
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", "too%20much")
			status = "8"
		case "mute":
			return
		case "long":
			_, _ = w.Write(make([]byte, 1<<20))
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	for name, want := range map[string]string{
		"web":        `gRPC: the answer is no gRPC: content type "text/html"`,
		"404":        `gRPC: HTTP status 404, want 200`,
		"cut":        `gRPC: the answer is no HealthCheckResponse`,
		"compressed": `gRPC: the answer is no HealthCheckResponse`,
		"garbled":    `gRPC: the answer is no HealthCheckResponse`,
		"empty":      `gRPC UNKNOWN: service "empty" is not serving`,
		"busy":       `gRPC status "8": "too much"`,
		"mute":       `gRPC: the answer ends without a status`,
		"long":       `gRPC: the answer ends without a status`,
	} {
		t.Run(name, func(t *testing.T) { wantSeen(t, probe.Run(patient(t), grpcOf(name), addrOf(l)), want) })
	}
	assert.NoError(t, probe.Run(patient(t), grpcOf("more"), addrOf(l)))
	none := grpc.NewServer()
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = none.Serve(l2) }()
	t.Cleanup(none.Stop)
	wantSeen(t, probe.Run(patient(t), grpcOf(""), addrOf(l2)), `gRPC UNIMPLEMENTED: it has no health service`)
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine: ", err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Host) })}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	assert.NoError(t, probe.Run(patient(t), get(v1alpha1.HTTPProbe{Body: addrOf(l).String()}), addrOf(l)))
}
