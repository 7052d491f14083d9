package endpoints

import "time"

// A file that is being written is looked at again after settle, and when Load has done so a number of
// times it goes on without it.
const (
	settle       = 50 * time.Millisecond
	settleRounds = 20
)

// Load reads a manifest directory once, as the daemon would: for what is wrong the accepted copies
// under stateDir stand in, and Snapshot.Errors says so. It writes nothing. The error is that of a
// directory that cannot be read when there is no accepted copy either, so nothing is known.
func Load(dir, stateDir string) (*Snapshot, error) {
	s := newStore(dir, stateDir)
	for round := 0; s.scan() && round < settleRounds; round++ {
		time.Sleep(settle)
	}
	if s.dirError != nil && len(s.files) == 0 {
		return nil, s.dirError
	}
	return s.snapshot(), nil
}
