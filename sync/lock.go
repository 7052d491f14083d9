package sync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// lockFile is held by whoever may write a state directory and the kernel table that it stands for.
const lockFile = "lock"

// ErrLocked says that a daemon runs over the state directory.
var ErrLocked = errors.New("another pointsman runs over this state directory")

// TryLock takes the state directory, which it makes where it is missing, or gives ErrLocked. The
// kernel gives it back when the process ends, however it does.
func TryLock(stateDir string) (unlock func(), err error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, stateDir)
		}
		return nil, fmt.Errorf("locking the state directory %s: %w", stateDir, err)
	}
	return func() { _ = f.Close() }, nil
}

// Lock is TryLock that waits for the other daemon to end: an upgrade starts the new one while the
// old one stops. When ctx ends first, unlock is nil and so is the error.
func Lock(ctx context.Context, stateDir string, log logrus.FieldLogger) (unlock func(), err error) {
	for said := false; ; said = true {
		unlock, err = TryLock(stateDir)
		if !errors.Is(err, ErrLocked) {
			return unlock, err
		}
		if !said {
			log.WithField("state-dir", stateDir).Warn("another pointsman runs over this state directory: waiting for its end")
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Running is whether a daemon runs over the state directory.
func Running(stateDir string) (bool, error) {
	f, err := os.Open(filepath.Join(stateDir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a daemon: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a daemon: %w", err)
	}
	return false, nil
}
