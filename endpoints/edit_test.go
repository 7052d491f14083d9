package endpoints

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/endpoints/manifest"
)

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o644) }

func setActive(dir string, key types.NamespacedName, colour string) (previous, digest string, err error) {
	was, digest, err := Edit(dir, key, manifest.Change{Active: &colour})
	if err != nil {
		return "", "", err
	}
	return was.Spec.Active, digest, nil
}

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

func TestEdit(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	p.write("b.yaml", app("b", "v1", 30081))
	path := filepath.Join(p.dir, "a.yaml")
	require.NoError(t, os.Chmod(path, 0o604))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(path, 1234, 4321))
	}

	previous, digest, err := setActive(p.dir, named("a"), "v2")
	require.NoError(t, err)
	assert.Equal(t, "v1", previous)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, app("a", "v2", 30080), string(data))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o604), info.Mode())
	if os.Geteuid() == 0 {
		assert.EqualValues(t, 1234, info.Sys().(*syscall.Stat_t).Uid)
		assert.EqualValues(t, 4321, info.Sys().(*syscall.Stat_t).Gid)
	}
	entries, err := os.ReadDir(p.dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "nothing is left behind")
	snap, err := Load(p.dir, p.state)
	require.NoError(t, err)
	assert.Equal(t, "a=v2 b=v1", actives(snap))
	assert.Equal(t, digest, snap.Servers[0].Digest)

	before := stampOf(info)
	previous, again, err := setActive(p.dir, named("a"), "v2")
	require.NoError(t, err)
	assert.Equal(t, "v2", previous)
	assert.Equal(t, digest, again)
	info, err = os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, before, stampOf(info), "a value that is there already is not written")
}

func TestEditThroughLinks(t *testing.T) {
	p := newPlace(t)
	elsewhere := t.TempDir()
	target := filepath.Join(elsewhere, "real.yaml")
	require.NoError(t, os.WriteFile(target, []byte(app("a", "v1", 30080)), 0o644))
	require.NoError(t, os.Symlink(target, filepath.Join(p.dir, "a.yaml")))
	_, digest, err := setActive(p.dir, named("a"), "v2")
	require.NoError(t, err)
	info, err := os.Lstat(filepath.Join(p.dir, "a.yaml"))
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&os.ModeSymlink, "the link stays a link")
	data, err := os.ReadFile(target)
	require.NoError(t, err)
	assert.Equal(t, manifest.Digest(data), digest)
}

func TestEditErrors(t *testing.T) {
	p := newPlace(t)
	_, _, err := setActive(p.dir, named("a"), "v2")
	require.ErrorIs(t, err, ErrNotFound)
	assert.Equal(t, fmt.Sprintf("no such VirtualServer default/a in the manifests of %s; there is none at all", p.dir), err.Error())

	p.write("b.yaml", app("b", "v1", 30081))
	p.write("c.yaml", app("c", "v1", 30082))
	_, _, err = setActive(p.dir, named("a"), "v2")
	assert.Equal(t, fmt.Sprintf("no such VirtualServer default/a in the manifests of %s; there are default/b, default/c", p.dir), err.Error())

	p.write("a.yaml", app("a", "1", 30080))
	_, _, err = setActive(p.dir, named("a"), "v2")
	require.ErrorIs(t, err, ErrNotFound)
	assert.Contains(t, err.Error(), `; it may be in a manifest that is in error, mend that first: a.yaml:6:11: VirtualServer default/a: spec.active: is 1, a number, not a string; quote it: "1"`)

	p.write("a.yaml", app("b", "v1", 30080))
	_, _, err = setActive(p.dir, named("b"), "v2")
	assert.EqualError(t, err, fmt.Sprintf("VirtualServer default/b is declared more than once, in %s/a.yaml and %s/b.yaml; remove it from all but one", p.dir, p.dir))

	_, _, err = setActive(p.dir, named("c"), "v 2")
	require.ErrorContains(t, err, `colour "v 2" must be a label value`)
	_, _, err = setActive(p.dir+"x", named("c"), "v2")
	require.ErrorIs(t, err, os.ErrNotExist)
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(p.dir, 0o555))
		_, _, err = setActive(p.dir, named("c"), "v2")
		require.ErrorIs(t, err, os.ErrPermission)
		require.NoError(t, os.Chmod(p.dir, 0o755))
	}
}

// TestEditConcurrently edits two VirtualServers of one file from many goroutines: without the
// lock an edit of one would be lost to the other.
func TestEditConcurrently(t *testing.T) {
	p := newPlace(t)
	const servers, rounds = 8, 6
	text := ""
	for i := range servers {
		text += "---\n" + app(fmt.Sprintf("s%d", i), "v0", 30080+i)
	}
	p.write("all.yaml", text)
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() {
			for r := 1; r <= rounds; r++ {
				previous, _, err := setActive(p.dir, named(fmt.Sprintf("s%d", i)), fmt.Sprintf("v%d", r))
				assert.NoError(t, err)
				assert.Equal(t, fmt.Sprintf("v%d", r-1), previous)
			}
		})
	}
	wg.Wait()
	snap, err := Load(p.dir, p.state)
	require.NoError(t, err)
	for _, s := range snap.Servers {
		assert.Equal(t, fmt.Sprintf("v%d", rounds), s.Spec.Active)
	}
}

func TestEditLocked(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	unlock, err := lockDir(p.dir)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, _, err := setActive(p.dir, named("a"), "v2")
		done <- err
	}()
	data, err := os.ReadFile(filepath.Join(p.dir, "a.yaml"))
	require.NoError(t, err)
	assert.Equal(t, app("a", "v1", 30080), string(data))
	unlock()
	require.NoError(t, <-done)
}
