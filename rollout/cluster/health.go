package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// health knows what cannot be done now. What fails is logged when it starts to, when it
// fails otherwise, and when it ends; not at each try.
type health struct {
	log    logrus.FieldLogger
	mu     sync.Mutex
	failed map[string]error
}

// set says how doing a thing went. That ctx ended is no failure.
func (h *health) set(ctx context.Context, doing string, err error) {
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	before, failing := h.failed[doing]
	switch {
	case err == nil && failing:
		delete(h.failed, doing)
		h.log.Info(doing + " works again")
	case err != nil:
		if h.failed == nil {
			h.failed = map[string]error{}
		}
		if !failing || apierrors.ReasonForError(before) != apierrors.ReasonForError(err) {
			h.log.WithError(err).Warn(doing + " fails; trying on")
		}
		h.failed[doing] = err
	}
}

// forget drops all that failed: nobody tries any more.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = nil
}

// err is all that fails now, nil when nothing does.
func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []error
	for _, doing := range slices.Sorted(maps.Keys(h.failed)) {
		all = append(all, fmt.Errorf("%s: %w", doing, h.failed[doing]))
	}
	return errors.Join(all...)
}
