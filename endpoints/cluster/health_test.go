package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	errConnection = errors.New("connection refused")
	errForbidden  = statusError(status(403, metav1.StatusReasonForbidden, "forbidden"))
	errExpired    = statusError(status(410, metav1.StatusReasonExpired, "expired"))
	errUnstreamed = statusError(status(422, metav1.StatusReasonInvalid, "sendInitialEvents"))
)

// TestHealth steps through what may happen to two watches, a and b; each step is a second after the one
// before. "held" is as publishing sees it right after the step.
func TestHealth(t *testing.T) {
	type step struct {
		do     string
		err    error
		held   bool
		errors int
	}
	for name, steps := range map[string][]step{
		"outage": {
			{"a", nil, false, 0}, {"a", errConnection, true, 1}, {"b", errConnection, true, 1},
			{"a", errConnection, true, 1}, {"wait", nil, true, 1}, {"a", nil, true, 1},
			{"b", nil, true, 0}, {"", nil, false, 0}},
		"one watch must not hold the others for ever": {
			{"a", errConnection, true, 1}, {"b", errConnection, true, 1}, {"b", nil, true, 1}, {"wait", nil, false, 1}, {"a", nil, true, 0}},
		"a second outage holds as long": {
			{"a", errConnection, true, 1}, {"heard", nil, true, 1}, {"wait", nil, false, 1}, {"b", errConnection, true, 1}, {"wait", nil, true, 1}, {"b", nil, true, 1}, {"a", nil, true, 0}},
		"expired":            {{"a", errExpired, true, 0}, {"a", nil, true, 0}, {"", nil, false, 0}},
		"expired and no end": {{"a", errExpired, true, 0}, {"wait", nil, false, 0}},
		"forbidden":          {{"a", errForbidden, false, 1}, {"b", nil, false, 1}, {"a", nil, false, 0}},
		"forbidden after an outage: it may be starting": {
			{"a", errConnection, true, 1}, {"a", errForbidden, true, 1}, {"a", nil, true, 0}, {"", nil, false, 0}},
		"forbidden for good after an outage": {
			{"a", errConnection, true, 1}, {"a", errForbidden, true, 1}, {"wait", nil, false, 1}},
		"an older API server": {{"a", errUnstreamed, false, 0}},
		"no answer":           {{"ask", nil, false, 0}, {"wait", nil, true, 1}, {"a", nil, true, 0}},
		"stopped":             {{"a", errConnection, true, 1}, {"stop", nil, true, 0}, {"", nil, false, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			h, now := newHealth(), time.Unix(1e9, 0)
			for i, s := range steps {
				now = now.Add(time.Second)
				switch s.do {
				case "a", "b":
					h.answered(s.do, "watch", s.err, now)
					if s.err == nil {
						h.caughtUp(s.do, now)
					}
				case "ask":
					h.asked("a", now)
				case "heard":
					h.alive(now)
				case "wait":
					now = now.Add(maxHold)
				case "stop":
					h.forget("a", now)
				}
				h.look(now)
				assert.Equal(t, s.held, !h.held(now).IsZero(), "held at step %d", i)
				assert.Len(t, h.errors("s", "held"), s.errors, "step %d", i)
			}
		})
	}
}

// TestHealthListWorksWatchDoesNot: the error stays while the reflector goes round.
func TestHealthListWorksWatchDoesNot(t *testing.T) {
	h, now := newHealth(), time.Unix(1e9, 0)
	for range 3 {
		h.answered("services", "watch", errForbidden, now)
		assert.Len(t, h.errors("s", "held"), 1)
		h.answered("services", "list", nil, now)
		h.caughtUp("services", now)
		assert.Len(t, h.errors("s", "held"), 1)
	}
	h.answered("services", "watch", nil, now)
	assert.Empty(t, h.errors("s", "held"))
}
