package endpoints

import (
	"context"
	"reflect"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// maxSettle bounds how long a steady stream of events can put off a scan.
	maxSettle = time.Second
	// pollInterval is how often the directory is looked at while it cannot be watched, and how soon
	// what could not be kept on disk is tried again. At rest there is no polling.
	pollInterval = time.Second
)

// Manifests watches a manifest directory.
type Manifests struct {
	dir, stateDir string
	log           logrus.FieldLogger
	out           *Publisher
}

// New does no I/O; [Manifests.Run] does it all.
func New(dir, stateDir string, log logrus.FieldLogger) *Manifests {
	return &Manifests{dir: dir, stateDir: stateDir, log: log, out: NewPublisher(log)}
}

// Snapshot is the latest one. It is nil until Run has looked at the directory for the first time:
// nothing is known then, which is not the same as nothing being there.
func (m *Manifests) Snapshot() *Snapshot { return m.out.Snapshot() }

// Changed holds one token when the Snapshot has changed since the last one was taken.
func (m *Manifests) Changed() <-chan struct{} { return m.out.Changed() }

// Failures counts the errors that have come into Snapshot.Errors since the start.
func (m *Manifests) Failures() uint64 { return m.out.Failures() }

func (m *Manifests) String() string { return "manifests of " + m.dir }

// Run watches until ctx is done; it returns nil then. Nothing that happens to the directory ends it.
func (m *Manifests) Run(ctx context.Context) error {
	w := newWatch(m.log)
	defer w.close()
	s := newStore(m.dir, m.stateDir)
	first := 0
	for {
		// Watch first, then scan: what changes in between is seen by one or the other.
		watched := w.cover(m.dir, s.names())
		unsettled := s.scan()
		watched = w.cover(m.dir, s.names()) && watched
		saved := true
		// The first Snapshot waits for files being written: without them it would look as if their
		// objects had been removed.
		if first++; !unsettled || m.Snapshot() != nil || first > settleRounds {
			m.publish(s.snapshot())
			saved = m.save(s)
		}

		retry := time.Duration(0)
		switch {
		case unsettled || w.stale:
			retry = settle
		case !watched || !saved || s.dirError != nil:
			retry = pollInterval
		}
		if !w.wait(ctx, retry) {
			return nil
		}
	}
}

func (m *Manifests) publish(snap *Snapshot) {
	if !reflect.DeepEqual(m.Snapshot(), snap) {
		m.out.Publish(snap)
	}
}

// save keeps what is in force on disk. Failing to do so harms the next restart, not traffic: it is
// logged and tried again.
func (m *Manifests) save(s *store) bool {
	err := s.save()
	if message := errorText(err); message != s.saveError {
		if s.saveError = message; err != nil {
			m.out.Fail(err, "a restart would not know what is in force")
		} else {
			m.log.Info("what is in force is kept on disk again")
		}
	}
	return err == nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
