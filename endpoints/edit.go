package endpoints

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
	"github.com/pointsman/pointsman/internal/atomicfile"
)

// ErrNotFound: no manifest declares the VirtualServer.
var ErrNotFound = errors.New("no such VirtualServer")

// lockTimeout is far more than an edit takes; who holds the lock longer is stuck.
const lockTimeout = 5 * time.Second

// Change is a change of a VirtualServer's declaration.
type Change = manifest.Change

// Edit changes a VirtualServer in the manifest that declares it, and no other byte of that; see [manifest.Edit]. It
// returns what was declared before and the digest of the file, by which [Server] shows that the edit is in
// force. A file that says so already is not written.
//
// The new text is parsed before it is put in place, by a rename, so a reader never meets a wrong or a
// half-written file. Edits of the same file wait for one another.
func Edit(dir string, key types.NamespacedName, change Change) (was *v1alpha1.VirtualServer, digest string, err error) {
	path, err := declaringFile(dir, key)
	if err != nil {
		return nil, "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, "", fmt.Errorf("changing VirtualServer %s in %s: %w", key, path, err)
	}
	was, digest, err = edit(real, filepath.Base(path), key, change)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; run it as the owner of the file and its directory", err)
	}
	if err != nil {
		return nil, "", fmt.Errorf("changing VirtualServer %s in %s: %w", key, path, err)
	}
	return was, digest, nil
}

func edit(path, name string, key types.NamespacedName, change Change) (was *v1alpha1.VirtualServer, digest string, err error) {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	data, before, err := readManifest(path)
	if err != nil {
		return nil, "", err
	}
	edited, was, err := manifest.Edit(name, data, key, change)
	if err != nil {
		return nil, "", err
	}
	if bytes.Equal(edited, data) {
		return was, manifest.Digest(data), nil
	}
	err = atomicfile.ReplaceDurably(path, edited, func(f *os.File) error {
		if err := keepModeAndOwner(path, f); err != nil {
			return err
		}
		// An editor does not know our lock: its work must not be lost. What remains is the time from
		// here to the rename.
		if info, err := os.Stat(path); err != nil || stampOf(info) != before {
			return errors.New("another program changed the file meanwhile; try again")
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return was, manifest.Digest(edited), nil
}

func keepModeAndOwner(path string, f *os.File) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	own, err := f.Stat()
	if err != nil {
		return err
	}
	was, ok := info.Sys().(*syscall.Stat_t)
	is, ok2 := own.Sys().(*syscall.Stat_t)
	if ok && ok2 && (was.Uid != is.Uid || was.Gid != is.Gid) {
		if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return fmt.Errorf("keeping the owner: %w", err)
		}
	}
	// After the owner: a chown clears the set-id bits.
	return f.Chmod(info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky))
}

// lockDir locks a directory against others who do the same. The lock is on the directory itself, so
// it leaves nothing behind, and the kernel drops it when its holder dies.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = d.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(deadline) {
			_ = d.Close()
			return nil, fmt.Errorf("locking %s, which another program holds: %w", dir, err)
		}
	}
}

// declaringFile is the path of the one manifest that declares a VirtualServer.
func declaringFile(dir string, key types.NamespacedName) (string, error) {
	names, err := listManifests(dir)
	if err != nil {
		return "", fmt.Errorf("looking for VirtualServer %s: %w", key, err)
	}
	var in, others, broken []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		file, wrong := parseManifest(path)
		if wrong != "" {
			broken = append(broken, wrong)
			continue
		}
		for _, vs := range file.VirtualServers {
			if vs.Namespace == key.Namespace && vs.Name == key.Name {
				in = append(in, path)
			} else {
				others = append(others, vs.Namespace+"/"+vs.Name)
			}
		}
	}
	switch len(in) {
	case 1:
		return in[0], nil
	case 0:
		return "", notFound(dir, key, others, broken)
	}
	return "", fmt.Errorf("VirtualServer %s is declared more than once, in %s; remove it from all but one", key, strings.Join(in, " and "))
}

func parseManifest(path string) (file *manifest.File, wrong string) {
	var data []byte
	var err error
	for range settleRounds {
		if data, _, err = readManifest(path); !errors.Is(err, errUnsettled) {
			break
		}
		time.Sleep(settle)
	}
	if err != nil {
		return nil, fmt.Sprintf("%s: %v", filepath.Base(path), err)
	}
	file, errs := manifest.Parse(path, data)
	if len(errs) > 0 {
		return nil, errs[0].Error()
	}
	return file, ""
}

func notFound(dir string, key types.NamespacedName, others, broken []string) error {
	err := fmt.Errorf("%w %s in the manifests of %s", ErrNotFound, key, dir)
	if len(others) > 0 {
		slices.Sort(others)
		const some = 10
		more := ""
		if len(others) > some {
			more = fmt.Sprintf(" and %d more", len(others)-some)
			others = others[:some]
		}
		err = fmt.Errorf("%w; there are %s%s", err, strings.Join(others, ", "), more)
	} else {
		err = fmt.Errorf("%w; there is none at all", err)
	}
	if len(broken) > 0 {
		err = fmt.Errorf("%w; it may be in a manifest that is in error, mend that first: %s", err, strings.Join(broken, "; "))
	}
	return err
}
