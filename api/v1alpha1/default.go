package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Defaults that [Default] fills in; the kubebuilder markers repeat them for the API server.
const (
	DefaultColourLabel     = "version"
	DefaultScheduler       = "rr"
	DefaultForwarding      = Masquerade
	DefaultGateMinReady    = "100%"
	DefaultGateTimeout     = 2 * time.Minute
	DefaultObserveWindow   = 10 * time.Minute
	DefaultObserveMinReady = "80%"
	DefaultDrainTimeout    = 5 * time.Minute
	DefaultQueryInterval   = 15 * time.Second
	DefaultHookTimeout     = 10 * time.Second
	DefaultProbePath       = "/"
	DefaultProbeScheme     = "HTTP"
	DefaultProbeStatus     = 200
)

// Default fills in what the user left out. It never changes what the user wrote.
func Default(vs *VirtualServer) {
	s := &vs.Spec
	fill(&s.ColourLabel, DefaultColourLabel)
	fill(&s.Scheduler.Name, DefaultScheduler)
	fill(&s.Forwarding, DefaultForwarding)

	gate := &s.Switch.Gate
	fillPointer(&gate.MinReady, intstr.FromString(DefaultGateMinReady))
	fill(&gate.Nodes, GateNodesAll)
	fillPointer(&gate.Timeout, metav1.Duration{Duration: DefaultGateTimeout})
	defaultProbe(gate.Probe)

	if o := s.Switch.Observe; o != nil {
		fillPointer(&o.Window, metav1.Duration{Duration: DefaultObserveWindow})
		fillPointer(&o.MinReady, intstr.FromString(DefaultObserveMinReady))
		fill(&o.OnFailure, FailureRollback)
		fillPointer(&o.Connections, true)
		defaultProbe(o.Probe)
		if q := o.Prometheus; q != nil {
			fillPointer(&q.Interval, metav1.Duration{Duration: DefaultQueryInterval})
		}
	}
	if h := s.Switch.Hooks; h != nil {
		for _, hook := range []*Hook{h.Before, h.After} {
			if hook != nil {
				fillPointer(&hook.Timeout, metav1.Duration{Duration: DefaultHookTimeout})
			}
		}
	}

	drain := &s.Switch.Drain
	fillPointer(&drain.Timeout, metav1.Duration{Duration: DefaultDrainTimeout})
	fill(&drain.OnTimeout, DrainKeep)
}

func defaultProbe(p *Probe) {
	if p == nil || p.HTTP == nil {
		return
	}
	fill(&p.HTTP.Scheme, DefaultProbeScheme)
	fill(&p.HTTP.Path, DefaultProbePath)
	fillPointer(&p.HTTP.Status, DefaultProbeStatus)
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

func fillPointer[T any](to **T, value T) {
	if *to == nil {
		*to = &value
	}
}
