package v1alpha1

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateSwitch(path *field.Path, s *Switch) field.ErrorList {
	errs := validateGate(path.Child("gate"), &s.Gate)
	errs = append(errs, validateSteps(path.Child("steps"), s.Steps)...)
	if o := s.Observe; o != nil {
		at := path.Child("observe")
		errs = append(errs, duration(at.Child("window"), o.Window)...)
		errs = append(errs, minReady(at.Child("minReady"), o.MinReady)...)
		errs = append(errs, oneOf(at.Child("onFailure"), o.OnFailure, FailureRollback, FailureHold)...)
		if o.Probe != nil {
			errs = append(errs, validateProbe(at.Child("probe"), o.Probe)...)
		}
		if o.Prometheus != nil {
			errs = append(errs, validateQuery(at.Child("prometheus"), o.Prometheus)...)
		}
	}
	if h := s.Hooks; h != nil {
		errs = append(errs, validateHook(path.Child("hooks", "before"), h.Before)...)
		errs = append(errs, validateHook(path.Child("hooks", "after"), h.After)...)
	}
	if s.Force != "" {
		errs = append(errs, details(path.Child("force"), s.Force, ValidateColour(s.Force))...)
	}
	drain := path.Child("drain")
	errs = append(errs, duration(drain.Child("timeout"), s.Drain.Timeout)...)
	return append(errs, oneOf(drain.Child("onTimeout"), s.Drain.OnTimeout, DrainKeep, DrainCut)...)
}

func validateGate(path *field.Path, g *Gate) field.ErrorList {
	errs := minReady(path.Child("minReady"), g.MinReady)
	if g.Nodes != GateNodesAll && !percentage(g.Nodes) {
		errs = append(errs, field.Invalid(path.Child("nodes"), g.Nodes, `must be All or a percentage from "1%" to "100%"`))
	}
	errs = append(errs, duration(path.Child("timeout"), g.Timeout)...)
	if g.Probe != nil {
		errs = append(errs, validateProbe(path.Child("probe"), g.Probe)...)
	}
	return errs
}

func validateProbe(path *field.Path, p *Probe) field.ErrorList {
	var errs field.ErrorList
	var kinds []string
	port := func(kind string, value *int32) {
		kinds = append(kinds, kind)
		if value != nil {
			errs = append(errs, details(path.Child(kind, "port"), *value, validation.IsValidPortNum(int(*value)))...)
		}
	}
	if p.TCP != nil {
		port("tcp", p.TCP.Port)
	}
	if h := p.HTTP; h != nil {
		port("http", h.Port)
		at := path.Child("http")
		errs = append(errs, oneOf(at.Child("scheme"), h.Scheme, "HTTP", "HTTPS")...)
		if !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), h.Path, "must begin with /"))
		}
		errs = append(errs, atMost(at.Child("path"), h.Path, MaxProbePath)...)
		errs = append(errs, atMost(at.Child("host"), h.Host, MaxProbeHost)...)
		errs = append(errs, atMost(at.Child("body"), h.Body, MaxProbeBody)...)
		if h.Status != nil && (*h.Status < 100 || *h.Status > 599) {
			errs = append(errs, field.Invalid(at.Child("status"), *h.Status, "must be an HTTP status from 100 to 599"))
		}
	}
	if p.TLS != nil {
		port("tls", p.TLS.Port)
		errs = append(errs, atMost(path.Child("tls", "serverName"), p.TLS.ServerName, MaxProbeServerName)...)
	}
	if p.GRPC != nil {
		port("grpc", p.GRPC.Port)
		errs = append(errs, atMost(path.Child("grpc", "service"), p.GRPC.Service, MaxProbeService)...)
	}
	switch len(kinds) {
	case 0:
		errs = append(errs, field.Required(path, "give one of tcp, http, tls, grpc, as in probe: {tcp: {}}, or leave the probe out"))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, strings.Join(kinds, ", "), "is more than one kind of probe; keep one"))
	}
	return errs
}

func validateHook(path *field.Path, h *Hook) field.ErrorList {
	if h == nil {
		return nil
	}
	errs := httpURL(path.Child("url"), h.URL, "https://example.com/hook")
	return append(errs, duration(path.Child("timeout"), h.Timeout)...)
}

func validateQuery(path *field.Path, q *PrometheusQuery) field.ErrorList {
	errs := httpURL(path.Child("url"), q.URL, "http://prometheus.example:9090")
	if q.Query == "" {
		errs = append(errs, field.Required(path.Child("query"), "give a query in PromQL whose answer is one number"))
	}
	errs = append(errs, atMost(path.Child("query"), q.Query, MaxQuery)...)
	for _, bound := range []struct{ name, value string }{{"max", q.Max}, {"min", q.Min}} {
		if bound.value == "" {
			continue
		}
		if tooLong := atMost(path.Child(bound.name), bound.value, MaxBoundText); tooLong != nil {
			errs = append(errs, tooLong...)
		} else if !number.MatchString(bound.value) {
			errs = append(errs, field.Invalid(path.Child(bound.name), bound.value, `must be a number, as in "0.01"`))
		}
	}
	if q.Max == "" && q.Min == "" {
		errs = append(errs, field.Invalid(path, q.Query, `has no bound; give max or min, as in max: "0.01"`))
	}
	return append(errs, duration(path.Child("interval"), q.Interval)...)
}

// number is what strconv.ParseFloat takes, without what no bound is: hexadecimal, underscores, infinities.
var number = regexp.MustCompile(`^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})?$`)

// httpURL asks what the CRD's rule asks, which parses twice too: the first parse takes a fragment for a part
// of the path, the second takes what is no absolute URL.
func httpURL(path *field.Path, value, example string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "give a URL, as in "+example)}
	}
	if errs := atMost(path, value, MaxURL); errs != nil {
		return errs
	}
	_, err := url.ParseRequestURI(value)
	u, err2 := url.Parse(value)
	if err != nil || err2 != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return field.ErrorList{field.Invalid(path, value, "must be a URL with http or https and a host, as in "+example)}
	}
	return nil
}

func validateSteps(path *field.Path, steps []Step) field.ErrorList {
	var errs field.ErrorList
	for i, step := range steps {
		at := path.Index(i)
		switch {
		case step.Weight < 1 || step.Weight > 99:
			errs = append(errs, field.Invalid(at.Child("weight"), step.Weight, "must be a percentage from 1 to 99; the last step to 100 needs no entry"))
		case i > 0 && step.Weight <= steps[i-1].Weight:
			errs = append(errs, field.Invalid(at.Child("weight"), step.Weight, fmt.Sprintf("must be above the %d of the step before", steps[i-1].Weight)))
		}
		if step.Hold == nil {
			errs = append(errs, field.Required(at.Child("hold"), "give how long the step is held, as in hold: 2m"))
			continue
		}
		errs = append(errs, duration(at.Child("hold"), step.Hold)...)
	}
	return errs
}

// minReady refuses zero: a colour with no ready endpoint must never be switched to.
func minReady(path *field.Path, v *intstr.IntOrString) field.ErrorList {
	if v == nil || (v.Type == intstr.Int && v.IntVal >= 1) || (v.Type == intstr.String && percentage(v.StrVal)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, v.String(), `must be a number of endpoints from 1, or a percentage from "1%" to "100%"`)}
}

func duration(path *field.Path, d *metav1.Duration) field.ErrorList {
	if d == nil || d.Duration > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, d.Duration.String(), "must be above zero, as in 30s or 5m")}
}

// percentage tells whether s is 1% to 100%, written without sign or leading zero.
func percentage(s string) bool {
	digits, ok := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	return ok && err == nil && n >= 1 && n <= 100 && strconv.Itoa(n) == digits
}
