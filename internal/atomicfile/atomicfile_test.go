package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"Write": Write, "WriteDurably": WriteDurably} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			for _, content := range []string{"old", "new", ""} {
				require.NoError(t, write(path, []byte(content), 0o640))
				got, err := os.ReadFile(path)
				require.NoError(t, err)
				assert.Equal(t, content, string(got))
			}
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o640), info.Mode())
			assertOnly(t, dir, "f")
			assert.ErrorIs(t, write(filepath.Join(dir, "no", "f"), nil, 0o640), fs.ErrNotExist)
		})
	}
}

// TestPrepareFails: the old content stays, and nothing is left beside it.
func TestPrepareFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	require.NoError(t, Write(path, []byte("old"), 0o640))
	refused := errors.New("refused")
	assert.ErrorIs(t, ReplaceDurably(path, []byte("new"), func(*os.File) error { return refused }), refused)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "old", string(got))
	assertOnly(t, dir, "f")
}

func assertOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, want, names)
}
