package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/endpoints"
)

const (
	// patience is how long a call may be without an answer before the API server counts as gone.
	patience = 5 * time.Second
	// regroup is how long after the last watch is back what comes from all of them counts as one.
	regroup = 300 * time.Millisecond
	// maxHold bounds how long watches that are back wait for others: a change of endpoints must not
	// wait for ever because of one kind of object.
	maxHold = 20 * time.Second
)

// health is how each watch fares, by name. It has no clock of its own.
type health struct {
	calls   map[string]time.Time // without an answer, since
	behind  map[string]bool      // failed and has not caught up since
	refused map[string]refusal   // answered with a no that somebody must mend

	gone     time.Time // since when the API server does not answer; zero: it does
	goneWhy  error
	back     time.Time // since when it is heard again while watches are behind
	regained time.Time // when the last one had
}

type refusal struct {
	verb string
	err  error
}

func newHealth() health {
	return health{calls: map[string]time.Time{}, behind: map[string]bool{}, refused: map[string]refusal{}}
}

func (h *health) asked(name string, now time.Time) { h.calls[name] = now }

// answered takes the outcome of a call. A good one is not yet what was asked for: see caughtUp.
func (h *health) answered(name, verb string, err error, now time.Time) {
	delete(h.calls, name)
	switch {
	case err == nil:
		if verb == "watch" || h.refused[name].verb == verb {
			delete(h.refused, name) // a list that works does not mean that the watch will
		}
	case errors.Is(err, context.Canceled):
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		// An older API server does not stream lists; the reflector goes on to list.
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err):
		// One that was behind stays so: an API server that starts refuses before it has read its own roles.
		h.refused[name] = refusal{verb, err}
		h.alive(now)
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		h.fallBehind(name) // it lists anew
		h.alive(now)
	default:
		h.fallBehind(name)
		h.lost(err, now)
	}
}

func (h *health) fallBehind(name string) {
	if !h.behind[name] {
		h.behind[name], h.back = true, time.Time{}
	}
}

func (h *health) lost(why error, now time.Time) {
	if h.gone.IsZero() {
		h.gone, h.goneWhy = now, why
	}
}

// alive says that the API server was heard.
func (h *health) alive(now time.Time) {
	if len(h.behind) > 0 && h.back.IsZero() {
		h.back = now
	}
	for behind := range h.behind {
		if _, refused := h.refused[behind]; !refused {
			return
		}
	}
	h.gone, h.goneWhy = time.Time{}, nil
}

// caughtUp says that a watch holds what the API server has, or is being sent it.
func (h *health) caughtUp(name string, now time.Time) {
	if h.behind[name] {
		delete(h.behind, name)
		h.settle(now)
	}
	h.alive(now)
}

// forget drops a watch that was stopped.
func (h *health) forget(name string, now time.Time) {
	delete(h.calls, name)
	delete(h.refused, name)
	if h.behind[name] {
		delete(h.behind, name)
		h.settle(now)
	}
}

func (h *health) settle(now time.Time) {
	if len(h.behind) == 0 {
		h.gone, h.goneWhy, h.back, h.regained = time.Time{}, nil, time.Time{}, now
	}
}

// look finds calls that have waited too long. It says when to look again; zero: never.
func (h *health) look(now time.Time) (again time.Time) {
	for name, since := range h.calls {
		due := since.Add(patience)
		if !due.After(now) {
			if !h.behind[name] {
				h.fallBehind(name)
				h.lost(fmt.Errorf("no answer within %s", patience), since)
			}
		} else if again.IsZero() || due.Before(again) {
			again = due
		}
	}
	return again
}

// held tells until when nothing new is to be published: zero for now, the far future for no end in sight.
func (h *health) held(now time.Time) (until time.Time) {
	switch {
	case len(h.behind) == 0:
		until = h.regained.Add(regroup)
	case h.back.IsZero():
		return now.Add(time.Hour)
	default:
		until = h.back.Add(maxHold)
	}
	if !until.After(now) {
		return time.Time{}
	}
	return until
}

// errors are what somebody should know; held says what is in force meanwhile.
func (h *health) errors(source, held string) []endpoints.SourceError {
	var out []endpoints.SourceError
	if !h.gone.IsZero() {
		out = append(out, endpoints.SourceError{Source: source, Message: fmt.Sprintf(
			"the API server does not answer since %s (%s); %s; see that it runs and that this node reaches it",
			h.gone.UTC().Format(time.RFC3339), short(h.goneWhy), held)})
	}
	for _, name := range slices.Sorted(maps.Keys(h.refused)) {
		r := h.refused[name]
		out = append(out, endpoints.SourceError{Source: source, Message: mend(name, r.verb, r.err) + "; " + held})
	}
	return out
}

// mend says what is refused and what helps. The name of a watch starts with its resource.
func mend(name, verb string, err error) string {
	resource, of, _ := strings.Cut(name, " ")
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("the API server forbids us to %s %s (%s); grant the verb %s on %s to pointsman's ServiceAccount in its ClusterRole", verb, resource+of0(of), short(err), verb, resource)
	case apierrors.IsUnauthorized(err):
		return fmt.Sprintf("the API server does not know who we are when we %s %s (%s); give pointsman a valid token or client certificate", verb, resource+of0(of), short(err))
	case apierrors.IsNotFound(err) && strings.HasPrefix(name, virtualServers.Resource):
		return fmt.Sprintf("the API server knows no %s (%s of them: %s); install the CRD: kubectl apply -k deploy", resource, verb, short(err))
	}
	return fmt.Sprintf("the API server refuses to %s %s: %s; see that it is Kubernetes and new enough", verb, resource+of0(of), short(err))
}

func of0(of string) string {
	if of == "" {
		return ""
	}
	return " " + of
}

// short leaves out the URL, which is long and changes with each call.
func short(err error) string {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	return err.Error()
}

func statusError(s *metav1.Status) error { return &apierrors.StatusError{ErrStatus: *s} }
