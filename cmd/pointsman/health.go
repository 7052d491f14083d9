package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pointsman/pointsman/sync"
)

// health answers /healthz, /readyz and /metrics.
//
// /healthz is red while the last pass failed, or when no pass has been made for stuck: then a restart
// may help, and harms no traffic. /readyz is green once the kernel was read back as what is declared. That an
// object or the API server is at fault is for status and conditions: no restart mends it.
type health struct {
	address  string
	lastPass func() time.Time
	status   atomic.Pointer[sync.Status]
	registry *prometheus.Registry
}

// stuck is how long the loop may go without a pass. At rest it makes one each five seconds.
const stuck = time.Minute

func newHealth(address string, r *sync.Reconciler) *health {
	h := &health{address: address, lastPass: r.LastPass, registry: prometheus.NewRegistry()}
	gauge := func(name, help string, value func(*sync.Status) float64) {
		h.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pointsman", Name: name, Help: help}, func() float64 {
			if s := h.status.Load(); s != nil {
				return value(s)
			}
			return 0
		}))
	}
	gauge("virtualservers", "VirtualServers that are declared.", func(s *sync.Status) float64 { return float64(len(s.Servers)) })
	gauge("virtualservers_verified", "VirtualServers that were read back from the kernel as declared.", func(s *sync.Status) (n float64) {
		for _, of := range s.Servers {
			if of.Verified {
				n++
			}
		}
		return n
	})
	gauge("draining_connections", "Connections to real servers that get no new ones.", func(s *sync.Status) (n float64) {
		for _, of := range s.Servers {
			for _, d := range of.Draining {
				n += float64(d.Active) + float64(d.Inactive)
			}
		}
		return n
	})
	gauge("pass_failed", "1 while the last pass has failed.", func(s *sync.Status) float64 {
		if s.Error != "" {
			return 1
		}
		return 0
	})
	gauge("source_errors", "Manifests or watches that are at fault now.", func(s *sync.Status) float64 { return float64(len(s.Errors)) })
	h.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "pointsman", Name: "source_errors_total", Help: "Manifests and watches that were found at fault since the start.",
	}, func() float64 {
		if s := h.status.Load(); s != nil {
			return float64(s.Rejected)
		}
		return 0
	}))
	return h
}

// observe takes a new status.
func (h *health) observe(s *sync.Status) { h.status.Store(s) }

func (h *health) healthy() error {
	if last := h.lastPass(); time.Since(last) > stuck {
		return fmt.Errorf("no pass since %s", last.Format(time.RFC3339))
	}
	if s := h.status.Load(); s != nil && s.Error != "" {
		return errors.New(s.Error)
	}
	return nil
}

func (h *health) ready() error {
	s := h.status.Load()
	if s == nil {
		return errors.New("the kernel has not been read back as right yet")
	}
	return h.healthy()
}

// Run serves until ctx ends.
func (h *health) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	answer := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("/healthz", answer(h.healthy))
	mux.HandleFunc("/readyz", answer(h.ready))
	mux.Handle("/metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}))
	listener, err := net.Listen("tcp", h.address)
	if err != nil {
		return fmt.Errorf("serving health: %w; set --%s to a free address", err, keyHealthAddress)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
