package endpoints

import (
	"slices"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// Publisher is the reader's side of a source: the latest Snapshot, whether it changed, and how many
// errors there were. One goroutine publishes, any may read.
type Publisher struct {
	log      logrus.FieldLogger
	snapshot atomic.Pointer[Snapshot]
	changed  chan struct{}
	failures atomic.Uint64
}

// NewPublisher makes one that logs errors as they come and go.
func NewPublisher(log logrus.FieldLogger) *Publisher {
	return &Publisher{log: log, changed: make(chan struct{}, 1)}
}

// Snapshot is the latest one, or nil.
func (p *Publisher) Snapshot() *Snapshot { return p.snapshot.Load() }

// Changed holds one token when the Snapshot has changed since the last one was taken.
func (p *Publisher) Changed() <-chan struct{} { return p.changed }

// Failures counts the errors reported since the start.
func (p *Publisher) Failures() uint64 { return p.failures.Load() }

// Fail counts and logs an error that is no source's, or comes before there is a Snapshot.
func (p *Publisher) Fail(err error, message string) {
	p.failures.Add(1)
	p.log.WithError(err).Warn(message)
}

// Publish puts a Snapshot, which is another than the one before, in force.
func (p *Publisher) Publish(snap *Snapshot) {
	var before []SourceError
	if old := p.snapshot.Load(); old != nil {
		before = old.Errors
	}
	p.Report(before, snap.Errors)
	p.snapshot.Store(snap)
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Report logs and counts the errors that are new, and logs those that are gone.
func (p *Publisher) Report(before, now []SourceError) {
	for _, e := range now {
		if !slices.Contains(before, e) {
			p.failures.Add(1)
			p.log.WithField("source", e.Source).Warn(e.Message)
		}
	}
	for _, e := range before {
		if !slices.Contains(now, e) {
			p.log.WithField("source", e.Source).Infof("no longer: %s", e.Message)
		}
	}
}
