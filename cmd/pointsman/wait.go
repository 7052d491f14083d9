package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

// How often is looked at what a switch does, and how often the tree of it is drawn anew.
const (
	followInterval = 100 * time.Millisecond
	drawInterval   = time.Second
	// noticeSoon is how long a daemon may take to notice before a line says that it has not.
	noticeSoon = 2 * time.Second
)

// waiting follows one switch to its end.
type waiting struct {
	env
	verb            string
	key             types.NamespacedName
	was             string // the active colour at its declaration
	started         time.Time
	attempt         attempt
	follower        follower
	timeout, notice time.Duration // for all of it, and until a daemon has noticed
}

// follow returns when the switch has ended. The error has the exit status.
func (w *waiting) follow(ctx context.Context) error {
	end := time.Now().Add(w.timeout)
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	show := w.progress()
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	last := "nothing has been seen of it"
	for {
		s, err := w.follower.see(waiting)
		switch {
		case errors.Is(err, endpoints.ErrNotFound):
			return &exitError{exitSuperseded, fmt.Errorf("%s %s: %w", w.verb, w.key, err)}
		case err != nil && time.Now().Before(end): // else it may say no more than that
			last = err.Error()
		case err == nil:
			how, why := w.attempt.judge(s)
			show(waiting, s, how, why)
			if how != running {
				return w.ended(how, why)
			}
			last = why
			if !s.answered && time.Since(w.started) > w.notice {
				return w.timedOut(w.notice, last)
			}
		}
		select {
		case <-waiting.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("%s %s: not waited for any longer, and it goes on: %w", w.verb, w.key, ctx.Err())
			}
			return w.timedOut(w.timeout, last)
		case <-ticker.C:
		}
	}
}

func (w *waiting) timedOut(after time.Duration, last string) error {
	return &exitError{exitTimeout, fmt.Errorf("%s %s: %s is declared, but was not seen done within %s: %s", w.verb, w.key, w.attempt.to, after, last)}
}

func (w *waiting) ended(how outcome, why string) error {
	to := w.attempt.to
	fail := func(code int, format string, args ...any) error {
		return &exitError{code, fmt.Errorf("%s %s: "+format, append([]any{w.verb, w.key}, args...)...)}
	}
	switch how {
	case blocked:
		return fail(exitBlocked, "%s was blocked: %s", to, why)
	case rolledBack:
		return fail(exitRolledBack, "%s was rolled back: %s", to, why)
	case held:
		return fail(exitHeld, "%s is active, and failed its observation: %s", to, why)
	case superseded:
		return fail(exitSuperseded, "%s", why)
	}
	fmt.Fprintf(w.stdout, "%s: new connections go to %s only (was %s), read back from the kernel after %s\n",
		w.key, to, w.was, time.Since(w.started).Round(time.Millisecond))
	return nil
}

// progress shows how far it is: as a tree on a terminal, else in lines.
func (w *waiting) progress() func(context.Context, sighting, outcome, string) {
	if _, ok := terminal(w.stdout); ok {
		view, drawn, phase := live{env: w.env}, time.Time{}, v1alpha1.Phase("")
		return func(ctx context.Context, s sighting, how outcome, _ string) {
			if time.Since(drawn) < drawInterval && s.state.Phase == phase && how == running {
				return
			}
			if p, err := w.follower.picture(ctx); err == nil {
				view.show(func(to painter) { to.server(p) })
				drawn, phase = time.Now(), s.state.Phase
			}
		}
	}
	last := ""
	return func(_ context.Context, s sighting, how outcome, why string) {
		if how != running || !s.answered && time.Since(w.started) < noticeSoon {
			return
		}
		if text := progressOf(w.attempt.to, s, why); text != last {
			fmt.Fprintf(w.stdout, "%s: [%4.0fs] %s\n", w.key, time.Since(w.started).Seconds(), text)
			last = text
		}
	}
}

// progressOf is a line that tells how far a switch is.
func progressOf(to string, s sighting, why string) string {
	if !s.answered {
		return fmt.Sprintf("%s is declared: %s", to, why)
	}
	what, more := fmt.Sprintf("%s to %s", s.state.Phase, to), fmt.Sprintf("%d of %d nodes switched", s.switched, s.total)
	switch s.state.Phase {
	case v1alpha1.PhaseStaging:
		what, more = fmt.Sprintf("%s %s", s.state.Phase, s.state.Candidate), fmt.Sprintf("%d of %d nodes staged", s.staged, s.total)
	case v1alpha1.PhaseStepping:
		what = fmt.Sprintf("%s to %s, step %d: %d %%", s.state.Phase, s.state.Candidate, s.state.Step, s.state.Weight)
		more = fmt.Sprintf("given by %d of %d nodes", s.staged, s.total)
	case v1alpha1.PhaseObserving:
		what, more = fmt.Sprintf("%s %s until %s", s.state.Phase, s.state.Active, stampText(s.state.Deadline)), ""
	}
	if s.state.Reason != "" {
		more = why // who waits for whom says more than a count does
	}
	if more == "" {
		return what
	}
	return what + ", " + more
}
