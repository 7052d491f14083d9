package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// candidate is a colour whose pods answer on one more port, and what they answer until they are well.
type candidate struct {
	colour, gate, says string
	well               func()
}

const candidatePort = 9090

// listens has each pod of a colour listen on the candidate's port.
func (w *world) listens(colour string, on func(net.Listener)) {
	w.t.Helper()
	for _, b := range w.Colour(colour) {
		require.NoError(w.t, w.podsOf(b.Addr.Addr()).Do(func() error {
			l, err := net.Listen("tcp", netip.AddrPortFrom(b.Addr.Addr(), candidatePort).String())
			if err == nil {
				w.t.Cleanup(func() { _ = l.Close() })
				on(l)
			}
			return err
		}))
	}
}

func (w *world) gRPC(colour string) candidate {
	var all []*health.Server
	w.listens(colour, func(l net.Listener) {
		h, s := health.NewServer(), grpc.NewServer()
		h.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		grpc_health_v1.RegisterHealthServer(s, h)
		go func() { _ = s.Serve(l) }()
		w.t.Cleanup(s.Stop)
		all = append(all, h)
	})
	return candidate{colour, fmt.Sprintf("grpc: {port: %d, service: shop}", candidatePort), "NOT_SERVING", func() {
		for _, h := range all {
			h.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
		}
	}}
}

// web answers with another text until it is well.
func (w *world) web(colour string) candidate {
	var well atomic.Bool
	for _, b := range w.Colour(colour) {
		addr := b.Addr.Addr()
		w.serve(w.podsOf(addr), netip.AddrPortFrom(addr, candidatePort), func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path != "/ready" || r.Host != "shop.example":
				http.NotFound(w, r)
			case well.Load():
				w.WriteHeader(http.StatusAccepted)
				_, _ = fmt.Fprintln(w, "the database is there")
			default:
				w.WriteHeader(http.StatusAccepted)
				_, _ = fmt.Fprintln(w, "waiting for the database")
			}
		})
	}
	gate := fmt.Sprintf("http: {port: %d, path: /ready, host: shop.example, status: 202, body: the database is there}", candidatePort)
	return candidate{colour, gate, `HTTP body lacks "the database is there"`, func() { well.Store(true) }}
}

// tls speaks no TLS until it is well.
func (w *world) tls(colour string) candidate {
	var well atomic.Bool
	server := httptest.NewUnstartedServer(nil) // for its certificate
	server.StartTLS()
	config := server.TLS.Clone()
	server.Close()
	w.listens(colour, func(l net.Listener) {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					if well.Load() {
						_ = tls.Server(c, config).Handshake()
					} else {
						_, _ = fmt.Fprintln(c, "220 plain text here")
					}
				}()
			}
		}()
	})
	return candidate{colour, fmt.Sprintf("tls: {port: %d}", candidatePort), "does not speak TLS", func() { well.Store(true) }}
}

// A candidate is probed from the node in each of the ways there are: its gate waits as long as the answer is not the one that is asked for, says
// what was seen, and goes on when it is.
func TestKernelGateProbes(t *testing.T) {
	colours := []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}, {Name: "v3", Backends: 2}, {Name: "v4", Backends: 2}}
	w := newWorld(t, lab.Config{Colours: colours, Clients: 2}, lab.Manifests{})
	candidates := []candidate{w.gRPC("v2"), w.web("v3"), w.tls("v4")}
	w.start("v1")
	run := w.Start(lab.Load{From: w.Client, Target: w.vip, Local: w.ClientAddrs, Rate: 20, Clients: 4})
	active := "v1"
	for _, c := range candidates {
		w.declare(c.colour, "{gate: {timeout: 120s, probe: {"+c.gate+"}}}")
		w.waits(v1alpha1.PhaseStaging, "ProbeFailed", "mast01 passes 0 of 2 endpoints of "+c.colour, c.says)
		require.NoError(t, w.serves(active))
		c.well()
		s := w.until(v1alpha1.PhaseSteady, c.colour)
		require.Equal(t, []string{active, c.colour, "Succeeded", ""}, record(s.Status.History[0]))
		require.NoError(t, w.serves(c.colour))
		active = c.colour
	}
	require.NoError(t, run.Await(20, patience))
	healthy(t, run.Stop())
}
