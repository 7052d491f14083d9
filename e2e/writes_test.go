package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// writeWatch sees the writes of the program in the kernel itself.
type writeWatch struct {
	t *testing.T
	*lab.WriteWatch
}

func watchWrites(t *testing.T) writeWatch {
	t.Helper()
	w, err := lab.WatchWrites(filepath.Base(os.Getenv(lab.ProgramVariable)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return writeWatch{t, w}
}

// lines are the writes so far.
func (w writeWatch) lines() []string {
	w.t.Helper()
	lines, err := w.Writes()
	require.NoError(w.t, err)
	return lines
}
