package endpoints

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pointsman/pointsman/endpoints/manifest"
)

// isManifest tells whether a directory entry of that name is read. Names of hidden files, editors'
// backups and swap files are not.
func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// listManifests are the names of a directory's manifests, sorted.
func listManifests(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !isManifest(e.Name()) || e.IsDir() {
			continue
		}
		if e.Type()&fs.ModeSymlink != 0 {
			if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.IsDir() {
				continue
			}
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// stamp tells a file's present state from an earlier one without reading it.
type stamp struct {
	device, inode uint64
	size          int64
	mode          fs.FileMode
	modified      time.Time
	changed       time.Time // by the kernel at each write, rename and chmod; no program can set it back
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mode: info.Mode(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(sys.Dev), sys.Ino
		s.changed = time.Unix(sys.Ctim.Unix())
	}
	return s
}

// timestampGrain is more than any file system's; a file changed that shortly before it was read may
// change again without its stamp showing it.
const timestampGrain = 2 * time.Second

// errUnsettled: the file changed while it was read, so somebody is writing it.
var errUnsettled = errors.New("the file is being written")

// readManifest reads a file whole. It follows symbolic links.
func readManifest(path string) ([]byte, stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, stamp{}, readError(path, err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would block
		return nil, stamp{}, fmt.Errorf("is not a regular file but %s; replace or remove it", info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, readError(path, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, stamp{}, readError(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxBytes+1))
	if err != nil {
		return nil, stamp{}, readError(path, err)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, stamp{}, readError(path, err)
	}
	if stampOf(before) != stampOf(after) || (after.Size() != int64(len(data)) && after.Size() <= manifest.MaxBytes) {
		return nil, stamp{}, errUnsettled
	}
	return data, stampOf(after), nil
}

func readError(path string, err error) error {
	if target, linkErr := os.Readlink(path); linkErr == nil && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("is a symbolic link to %s, which does not exist: %w", target, err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("cannot be read; allow it with chmod or chown: %w", err)
	}
	return fmt.Errorf("cannot be read: %w", err)
}
