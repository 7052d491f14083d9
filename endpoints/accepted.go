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

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
	"github.com/pointsman/pointsman/internal/atomicfile"
)

// acceptedDir is the folder of the state directory that holds, for each manifest, the content last in
// force, so that a restart over a bad manifest takes nothing away.
const acceptedDir = "accepted"

// inForceFile, in the same folder, lists the VirtualServers in force, so that of two that claim one
// Service or port the same one has it after a restart. Its name is no manifest's.
const inForceFile = ".in-force"

// accepted is that folder.
type accepted struct{ dir string }

// load parses the copies. One that does not parse any more (an older version took what this one does
// not) is an error and no file.
func (a accepted) load() (map[string]*manifest.File, []SourceError) {
	files := make(map[string]*manifest.File)
	names, err := listManifests(a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return files, []SourceError{{a.dir, fmt.Sprintf("the accepted copies cannot be read: %v", err)}}
	}
	var errs []SourceError
	for _, name := range names {
		path := filepath.Join(a.dir, name)
		data, _, err := readManifest(path)
		if err != nil {
			errs = append(errs, SourceError{path, fmt.Sprintf("%s: the accepted copy %v", name, err)})
			continue
		}
		file, parseErrs := manifest.Parse(path, data)
		if len(parseErrs) > 0 {
			errs = append(errs, SourceError{path, fmt.Sprintf("the accepted copy is not valid to this version: %v", parseErrs[0])})
			continue
		}
		files[name] = file
	}
	return files, errs
}

// save makes the copy of a file.
func (a accepted) save(name string, data []byte) error {
	if err := os.MkdirAll(a.dir, 0o750); err != nil {
		return fmt.Errorf("keeping the accepted copy of %s: %w", name, err)
	}
	if err := atomicfile.WriteDurably(filepath.Join(a.dir, name), data, 0o640); err != nil {
		return fmt.Errorf("keeping the accepted copy of %s: %w", name, err)
	}
	return nil
}

// forget removes the copy of a file that is gone.
func (a accepted) forget(name string) error {
	if err := os.Remove(filepath.Join(a.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the accepted copy of %s: %w", name, err)
	}
	return nil
}

// names are those of the copies on disk.
func (a accepted) names() []string {
	names, err := listManifests(a.dir)
	if err != nil {
		return nil
	}
	return names
}

// loadInForce is the Snapshot, keys only, of the VirtualServers that were in force.
func (a accepted) loadInForce() *Snapshot {
	data, err := os.ReadFile(filepath.Join(a.dir, inForceFile))
	if err != nil {
		return nil // without it the first in the order of keys has the claim
	}
	snap := &Snapshot{}
	for line := range strings.Lines(string(data)) {
		if namespace, name, ok := strings.Cut(strings.TrimSpace(line), "/"); ok {
			snap.Servers = append(snap.Servers, Server{Key: types.NamespacedName{Namespace: namespace, Name: name}, Spec: &v1alpha1.VirtualServerSpec{}})
		}
	}
	return snap
}

// saveInForce writes the list when it changed.
func (a accepted) saveInForce(snap *Snapshot) error {
	var keys []string
	for i := range snap.Servers {
		if snap.Servers[i].Refused == nil {
			keys = append(keys, snap.Servers[i].Key.String()+"\n")
		}
	}
	slices.Sort(keys)
	data := []byte(strings.Join(keys, ""))
	path := filepath.Join(a.dir, inForceFile)
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, data) || errors.Is(err, fs.ErrNotExist) && len(data) == 0 {
		return nil
	}
	if err := os.MkdirAll(a.dir, 0o750); err != nil {
		return fmt.Errorf("keeping the list of VirtualServers in force: %w", err)
	}
	if err := atomicfile.WriteDurably(path, data, 0o640); err != nil {
		return fmt.Errorf("keeping the list of VirtualServers in force: %w", err)
	}
	return nil
}
