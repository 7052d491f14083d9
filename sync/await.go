package sync

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// BlockedError says that the daemon saw the declaration and does not make the switch.
type BlockedError struct{ Reason, Message string }

func (e *BlockedError) Error() string { return e.Reason + ": " + e.Message }

// awaitInterval is how often the status is looked at while waiting.
const awaitInterval = 20 * time.Millisecond

// AwaitActive returns when the daemon of the state directory has read back from the kernel that a
// VirtualServer, as the declaration with this digest has it, serves the colour and nothing else.
// A *[BlockedError] says that it will not. When ctx ends, the error says what was seen last.
func AwaitActive(ctx context.Context, stateDir string, key types.NamespacedName, colour, digest string) error {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for {
		last := "the daemon has written no status to " + stateDir + " (is `pointsman run` running with this --state-dir?)"
		status, err := LoadStatus(stateDir)
		switch {
		case err == nil:
			s := status.Server(key)
			switch {
			case s == nil:
				last = "the daemon does not serve it yet"
			case s.Digest != digest:
				last = "the daemon has not seen the change yet (is `pointsman run` running over these manifests?)"
			case s.Verified && s.Status.Active == colour && s.Declared == colour:
				return nil
			case s.Declared != colour:
				return fmt.Errorf("the declaration was changed again, to %s", s.Declared)
			case s.Status.Phase == v1alpha1.PhaseBlocked, s.Status.Phase == v1alpha1.PhaseRolledBack:
				return blocked(s)
			case status.Error != "":
				last = status.Error
			default:
				last = "the kernel does not hold it yet"
			}
		case !NoStatus(err):
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", last, ctx.Err())
		case <-ticker.C:
		}
	}
}

func blocked(s *ServerStatus) error {
	for _, c := range s.Status.Conditions {
		if c.Type == v1alpha1.ConditionSwitched {
			return &BlockedError{Reason: c.Reason, Message: c.Message}
		}
	}
	return &BlockedError{Reason: string(s.Status.Phase)}
}
