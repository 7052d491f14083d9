package endpoints

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeAtomically puts data in place of path: whoever reads it, even after a crash, finds the old
// content or the new. The temporary file's name is one that no manifest has.
func writeAtomically(path string, data []byte, mode fs.FileMode) error {
	return replace(path, data, func(f *os.File) error { return f.Chmod(mode) })
}

// replace writes data to a temporary file beside path, has it prepared, and renames it.
func replace(path string, data []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".pointsman-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := prepare(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The file is in place from here on: what fails now must not remove it.
	closeErr := f.Close()
	return errors.Join(closeErr, syncDir(dir))
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
