// Package atomicfile replaces a file's content in one step: a reader sees the old bytes or the new. It
// does not lock: of two writers at once the last one's bytes stay.
//
// [Write] keeps that promise whatever becomes of the process, [WriteDurably] and [ReplaceDurably] also
// over a power cut, which costs waiting for the disk.
//
// What a killed writer leaves behind is a file whose name starts with ".pointsman-", which no manifest
// has; it may be removed.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Write puts content at path, by a temporary file in the same directory and a rename. The directory must
// be there.
func Write(path string, content []byte, mode fs.FileMode) error {
	return replace(path, content, chmod(mode), false)
}

// WriteDurably is Write, and has the content on the disk when it returns.
func WriteDurably(path string, content []byte, mode fs.FileMode) error {
	return replace(path, content, chmod(mode), true)
}

// ReplaceDurably is WriteDurably for one who has more to say: prepare gets the complete temporary file
// before the rename, to set its mode and owner, and its error leaves path as it is.
func ReplaceDurably(path string, content []byte, prepare func(*os.File) error) error {
	return replace(path, content, prepare, true)
}

func chmod(mode fs.FileMode) func(*os.File) error {
	return func(f *os.File) error { return f.Chmod(mode) }
}

func replace(path string, content []byte, prepare func(*os.File) error, durable bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".pointsman-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := rename(f, path, content, prepare, durable); err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, f.Close(), os.Remove(f.Name())))
	}
	// The file is in place from here on: what fails now must not remove it.
	err = f.Close()
	if durable {
		err = errors.Join(err, syncDir(dir))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// rename fills the temporary file and puts it in place.
func rename(f *os.File, path string, content []byte, prepare func(*os.File) error, durable bool) error {
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := prepare(f); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), path)
}

// syncDir makes a rename last over a power cut. Some file systems cannot, and say EINVAL.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
