package endpoints

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// running starts a watcher; it ends with the test.
func (p *place) running() *Manifests {
	p.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := New(p.dir, p.state, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		assert.NoError(p.t, <-done)
	})
	return m
}

// becomes waits until the watcher says so.
func becomes(t *testing.T, m *Manifests, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		if snap := m.Snapshot(); snap != nil && actives(snap) == want {
			return
		}
		select {
		case <-m.Changed():
		case <-deadline:
			got := "nothing"
			if snap := m.Snapshot(); snap != nil {
				got = fmt.Sprintf("%s %v", actives(snap), snap.Errors)
			}
			t.Fatalf("still %s, not %s", got, want)
		}
	}
}

func TestManifests(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	m := p.running()
	becomes(t, m, "a=v1")

	p.write("a.yaml", app("a", "v2", 30080))
	becomes(t, m, "a=v2")
	p.write("a.yaml", "wrong")
	becomes(t, m, "a=v2 error:a.yaml")
	assert.EqualValues(t, 1, m.Failures())
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "a.yaml"), []byte(app("a", "v3", 30080)), 0o644))
	becomes(t, m, "a=v3")
	_, digest, err := setActive(p.dir, named("a"), "v4")
	require.NoError(t, err)
	becomes(t, m, "a=v4")
	assert.Equal(t, digest, m.Snapshot().Servers[0].Digest)
	require.NoError(t, os.Rename(filepath.Join(p.dir, "a.yaml"), filepath.Join(p.dir, "b.json.yaml")))
	require.NoError(t, os.Rename(filepath.Join(p.dir, "b.json.yaml"), filepath.Join(p.dir, "c.yml")))
	p.write("d.yaml", app("d", "v1", 30081))
	becomes(t, m, "a=v4 d=v1")
	p.remove("c.yml")
	becomes(t, m, "d=v1")
}

// TestManifestsHalfWritten has a writer that takes its time, in place, and pauses where what is there
// parses: at no moment may the second object seem to be gone.
func TestManifestsHalfWritten(t *testing.T) {
	p := newPlace(t)
	text := app("a", "v1", 30080) + "---\n" + app("b", "v1", 30081)
	p.write("all.yaml", text)
	m := p.running()
	becomes(t, m, "a=v1 b=v1")
	f, err := os.OpenFile(filepath.Join(p.dir, "all.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
	require.NoError(t, err)
	for i := range len(text) {
		_, err := f.WriteString(text[i : i+1])
		require.NoError(t, err)
		if i%60 == 0 {
			time.Sleep(15 * time.Millisecond)
			assert.Len(t, m.Snapshot().Servers, 2)
			assert.Empty(t, m.Snapshot().Errors)
		}
	}
	require.NoError(t, f.Close())
	p.write("c.yaml", app("c", "v1", 30082))
	becomes(t, m, "a=v1 b=v1 c=v1")
	assert.Zero(t, m.Failures())
}

// TestManifestsDirectoryGone: what it declared is held, and it is watched again on its return, also
// when another directory is in its place at once.
func TestManifestsDirectoryGone(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	m := p.running()
	becomes(t, m, "a=v1")
	require.NoError(t, os.Rename(p.dir, p.dir+".away"))
	becomes(t, m, "a=v1 error:manifests")
	require.NoError(t, os.Rename(p.dir+".away", p.dir))
	becomes(t, m, "a=v1")
	p.write("a.yaml", app("a", "v2", 30080))
	becomes(t, m, "a=v2")

	require.NoError(t, os.RemoveAll(p.dir))
	require.NoError(t, os.Mkdir(p.dir, 0o755))
	p.write("a.yaml", app("a", "v3", 30080))
	becomes(t, m, "a=v3")
	p.write("a.yaml", app("a", "v4", 30080))
	becomes(t, m, "a=v4")
	// A directory found empty has no more objects: the user may mean it.
	p.remove("a.yaml")
	becomes(t, m, "")
}

func TestManifestsStartWithoutDirectory(t *testing.T) {
	p := newPlace(t)
	require.NoError(t, os.Remove(p.dir))
	m := p.running()
	becomes(t, m, "error:manifests")
	require.NoError(t, os.Mkdir(p.dir, 0o755))
	p.write("a.yaml", app("a", "v1", 30080))
	becomes(t, m, "a=v1")
	p.write("a.yaml", app("a", "v2", 30080))
	becomes(t, m, "a=v2")
}

// TestManifestsConfigMap mounts as kubelet does: the files are links through ..data, which is swapped.
func TestManifestsConfigMap(t *testing.T) {
	p := newPlace(t)
	version := func(n int, colour string) {
		dir := fmt.Sprintf("..v%d", n)
		require.NoError(t, os.Mkdir(filepath.Join(p.dir, dir), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(p.dir, dir, "a.yaml"), []byte(app("a", colour, 30080)), 0o644))
		require.NoError(t, os.Symlink(dir, filepath.Join(p.dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(p.dir, "..data_tmp"), filepath.Join(p.dir, "..data")))
		if n > 1 {
			require.NoError(t, os.RemoveAll(filepath.Join(p.dir, fmt.Sprintf("..v%d", n-1))))
		}
	}
	version(1, "v1")
	require.NoError(t, os.Symlink("..data/a.yaml", filepath.Join(p.dir, "a.yaml")))
	m := p.running()
	becomes(t, m, "a=v1")
	for n := 2; n < 5; n++ {
		version(n, fmt.Sprintf("v%d", n))
		becomes(t, m, fmt.Sprintf("a=v%d", n))
	}
	assert.Zero(t, m.Failures())
}

// TestManifestsLinks: the directory is a link, and a file is a link to elsewhere; both ends matter.
func TestManifestsLinks(t *testing.T) {
	p := newPlace(t)
	real := p.dir
	p.dir = filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(real, p.dir))
	elsewhere := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(elsewhere, []byte(app("a", "v1", 30080)), 0o644))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(p.dir, "a.yaml")))
	m := p.running()
	becomes(t, m, "a=v1")
	require.NoError(t, os.WriteFile(elsewhere, []byte(app("a", "v2", 30080)), 0o644))
	becomes(t, m, "a=v2")

	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "a.yaml"), []byte(app("a", "v3", 30080)), 0o644))
	require.NoError(t, os.Symlink(other, p.dir+".new"))
	require.NoError(t, os.Rename(p.dir+".new", p.dir))
	becomes(t, m, "a=v3")
	require.NoError(t, os.WriteFile(filepath.Join(other, "a.yaml"), []byte(app("a", "v4", 30080)), 0o644))
	becomes(t, m, "a=v4")
}

// TestManifestsDirectoryLink: the directory is a link to one that is swapped, its files are files.
func TestManifestsDirectoryLink(t *testing.T) {
	p := newPlace(t)
	real := p.dir
	p.write("a.yaml", app("a", "v1", 30080))
	p.dir = filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(real, p.dir))
	m := p.running()
	becomes(t, m, "a=v1")
	other := &place{t, t.TempDir(), ""}
	other.write("a.yaml", app("a", "v2", 30080))
	require.NoError(t, os.Symlink(other.dir, p.dir+".new"))
	require.NoError(t, os.Rename(p.dir+".new", p.dir))
	becomes(t, m, "a=v2")
	other.write("a.yaml", app("a", "v3", 30080))
	becomes(t, m, "a=v3")
}

// TestWatchSameInode has a new directory pass for the old one, as one that was given its number does.
func TestWatchSameInode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	require.NoError(t, os.Mkdir(dir, 0o755))
	log := logrus.New()
	log.SetOutput(io.Discard)
	w := newWatch(log)
	defer w.close()
	require.True(t, w.cover(dir, nil))
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o755))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	w.dirs[dir] = info
	require.True(t, w.wait(context.Background(), 0))
	require.True(t, w.cover(dir, nil))
	assert.Contains(t, w.watcher.WatchList(), dir)
}

// TestManifestsAtRest: no scan without an event, and none for names that are not read.
func TestManifestsAtRest(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	m := p.running()
	becomes(t, m, "a=v1")
	time.Sleep(3 * settle)
	for len(m.Changed()) > 0 {
		<-m.Changed()
	}
	was := m.Snapshot()
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, ".a.yaml.swp"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "4913"), nil, 0o644))
	time.Sleep(3 * settle)
	assert.Same(t, was, m.Snapshot())
	assert.Empty(t, m.Changed())
}

// TestManifestsStateFull: when nothing can be kept on disk, traffic goes on, and it is kept once it
// can be.
func TestManifestsStateFull(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	accepted := filepath.Join(p.state, acceptedDir)
	require.NoError(t, os.WriteFile(accepted, nil, 0o644)) // in the way
	m := p.running()
	require.Eventually(t, func() bool { return m.Snapshot() != nil && len(m.Snapshot().Servers) == 1 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, os.Remove(accepted))
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(accepted, "a.yaml"))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
}
