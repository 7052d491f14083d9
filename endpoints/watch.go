package endpoints

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

// maxLinks bounds the symbolic links followed in one path, as the kernel does.
const maxLinks = 40

// watch tells when a directory of manifests may have changed: the directory itself, and the places
// through which its symbolic links lead, such as the ..data of a mounted ConfigMap.
type watch struct {
	log     logrus.FieldLogger
	watcher *fsnotify.Watcher // nil: the kernel gives none, so the directory is polled
	dirs    map[string]os.FileInfo
	links   map[string]bool // paths outside the manifests' own names whose change matters
	dir     string
	stale   bool // a directory was replaced by another while it was being covered
	failing string
}

func newWatch(log logrus.FieldLogger) *watch {
	w := &watch{log: log, dirs: map[string]os.FileInfo{}}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.WithError(err).Warn("manifests cannot be watched, so they are polled each second; raise fs.inotify.max_user_instances")
		return w
	}
	w.watcher = watcher
	return w
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// cover has everything watched through which the files are reached, and tells whether that could be
// done.
func (w *watch) cover(dir string, names []string) bool {
	if w.watcher == nil {
		return false
	}
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	w.dir, w.links, w.stale = dir, map[string]bool{}, false
	want := map[string]bool{dir: true}
	w.follow(dir, want)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink != 0 {
			w.follow(path, want)
		}
	}
	for at, was := range w.dirs {
		is, err := os.Stat(at)
		if want[at] && err == nil && os.SameFile(was, is) {
			continue
		}
		w.forget(at)
	}
	ok := true
	for _, at := range slices.Sorted(maps.Keys(want)) {
		if w.dirs[at] == nil {
			ok = w.add(at) && ok
		}
	}
	return ok
}

func (w *watch) add(dir string) bool {
	before, err := os.Stat(dir)
	if err != nil {
		return false // the scan says so
	}
	if err := w.watcher.Add(dir); err != nil {
		if message := err.Error(); message != w.failing {
			w.failing = message
			w.log.WithError(err).Warnf("%s cannot be watched, so it is polled each second", dir)
		}
		return false
	}
	after, err := os.Stat(dir)
	if err != nil || !os.SameFile(before, after) {
		_ = w.watcher.Remove(dir)
		w.stale = true
		return false
	}
	w.dirs[dir] = after
	return true
}

// follow notes each symbolic link in a path and the directory it stands in, and the file at its end.
func (w *watch) follow(path string, want map[string]bool) {
	for range maxLinks {
		link, rest := firstLink(path)
		if link == "" {
			if path != w.dir {
				w.links[path] = true
				want[filepath.Dir(path)] = true
			}
			return
		}
		w.links[link] = true
		want[filepath.Dir(link)] = true
		target, err := os.Readlink(link)
		if err != nil {
			return
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, rest)
	}
}

// firstLink is the first symbolic link in an absolute path, and what follows it.
func firstLink(path string) (link, rest string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		info, err := os.Lstat(path[:i])
		if err != nil {
			return "", ""
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return path[:i], strings.TrimPrefix(path[i:], "/")
		}
	}
	return "", ""
}

// wait returns when something changed and has been quiet for a moment, or, if retry is not 0, after
// that time. It tells whether to go on.
func (w *watch) wait(ctx context.Context, retry time.Duration) bool {
	var quiet, poll <-chan time.Time
	if retry > 0 {
		poll = time.After(retry)
	}
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w.watcher != nil {
		events, errs = w.watcher.Events, w.watcher.Errors
	}
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-events:
			if !w.matters(e.Name) {
				continue
			}
			if e.Has(fsnotify.Remove | fsnotify.Rename) {
				w.forget(e.Name)
			}
			if first.IsZero() {
				first = time.Now()
			}
			if left := maxSettle - time.Since(first); left < settle {
				quiet = time.After(max(0, left))
			} else {
				quiet = time.After(settle)
			}
		case err := <-errs:
			w.log.WithError(err).Warn("events about manifests were lost; reading the directory again")
			quiet = time.After(settle)
		case <-quiet:
			return true
		case <-poll:
			return true
		}
	}
}

// forget drops a directory that was removed or renamed, so that the next cover takes what stands there
// then: its inode does not tell, since a new directory can be given the number of the old one.
func (w *watch) forget(dir string) {
	if w.dirs[dir] != nil {
		_ = w.watcher.Remove(dir) // most often gone with the directory
		delete(w.dirs, dir)
	}
}

// matters tells whether an event can change what is read.
func (w *watch) matters(path string) bool {
	if path == w.dir || w.links[path] || w.dirs[path] != nil {
		return true
	}
	return filepath.Dir(path) == w.dir && isManifest(filepath.Base(path))
}
