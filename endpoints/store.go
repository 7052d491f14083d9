package endpoints

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
)

// store is what is known of a manifest directory: each file as it is and as it is in force. It belongs
// to one goroutine.
type store struct {
	dir      string
	accepted accepted

	files     map[string]*fileState
	dirError  error         // the directory cannot be read; everything is held
	oldErrors []SourceError // accepted copies that could not be used
	saveError string        // what save last failed with

	resolver *Resolver
	told     map[string]*manifest.File // what the resolver knows
	last     *Snapshot                 // nil before the first
}

// fileState is one manifest.
type fileState struct {
	stamp    stamp
	readAt   time.Time
	digest   string         // of the bytes last read
	data     []byte         // those bytes, kept until the accepted copy has them
	parsed   *manifest.File // nil when the file is wrong
	accepted *manifest.File // in force
	saved    string         // digest of the accepted copy on disk
	errs     []string       // why parsed is nil
	conflict string         // why parsed is not in force
	missing  bool           // not in the last listing
	writing  int            // scans in a row that met the file being written
}

// newStore starts from the accepted copies, as if they had just been read.
func newStore(dir, stateDir string) *store {
	s := &store{
		dir:      filepath.Clean(dir),
		accepted: accepted{filepath.Join(stateDir, acceptedDir)},
		files:    make(map[string]*fileState),
		told:     make(map[string]*manifest.File),
	}
	var copies map[string]*manifest.File
	copies, s.oldErrors = s.accepted.load()
	for name, file := range copies {
		s.files[name] = &fileState{accepted: file, saved: file.Digest}
	}
	s.resolver = NewResolver(nil, s.accepted.loadInForce())
	return s
}

// scan reads what changed in the directory and decides what is in force. It tells whether a file was
// being written, and should be looked at again.
func (s *store) scan() (unsettled bool) {
	names, err := s.list()
	if s.dirError = err; err != nil {
		return false
	}
	here := make(map[string]bool, len(names))
	for _, name := range names {
		here[name] = true
		if s.files[name] == nil {
			s.files[name] = &fileState{}
		}
		unsettled = s.read(name) || unsettled
	}
	for name, f := range s.files {
		switch {
		case here[name]:
			f.missing = false
		case !f.missing:
			// Editors rename a file away and write it anew, and a listing may miss one that is renamed
			// meanwhile: only what is missing twice is gone.
			f.missing, unsettled = true, true
		default:
			delete(s.files, name)
		}
	}
	s.decide()
	return unsettled
}

// names are those of the files known.
func (s *store) names() []string { return slices.Sorted(maps.Keys(s.files)) }

func (s *store) list() ([]string, error) {
	names, err := listManifests(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the manifest directory does not exist; what it declared last is held; create it or set --manifests: %w", err)
	case err != nil:
		return nil, fmt.Errorf("the manifest directory cannot be read; what it declared last is held: %w", err)
	}
	return names, nil
}

// read brings one file's state up to date; it reads the file only when its stamp changed.
func (s *store) read(name string) (unsettled bool) {
	f, path := s.files[name], filepath.Join(s.dir, name)
	if f.digest != "" {
		if info, err := os.Stat(path); err == nil && stampOf(info) == f.stamp && f.readAt.Sub(f.stamp.changed) > timestampGrain {
			return false
		}
	}
	now := time.Now()
	data, stamp, err := readManifest(path)
	if age := now.Sub(stamp.modified); err == nil && age >= 0 && age < settle {
		err = errUnsettled // what is half written parses, too, if it ends between two documents
	}
	if errors.Is(err, errUnsettled) {
		f.writing++
		return true
	}
	f.writing = 0
	if err != nil {
		f.parsed, f.digest, f.data = nil, "", nil
		f.errs = []string{fmt.Sprintf("%s: %v", name, err)}
		return false
	}
	f.stamp, f.readAt = stamp, now
	if digest := manifest.Digest(data); digest != f.digest {
		f.digest, f.data, f.errs = digest, data, nil
		var errs []*manifest.Error
		if f.accepted != nil && f.accepted.Digest == digest {
			f.parsed = f.accepted
		} else if f.parsed, errs = manifest.Parse(path, data); len(errs) > 0 {
			f.data = nil
			for _, e := range errs {
				f.errs = append(f.errs, e.Error())
			}
		}
	}
	return false
}

// decide puts in force what can be.
func (s *store) decide() {
	candidates := make(map[string]candidate, len(s.files))
	for name, f := range s.files {
		candidates[name] = candidate{f.parsed, f.accepted, f.missing}
	}
	inForce, conflicts := arbitrate(candidates)
	for name, f := range s.files {
		f.accepted, f.conflict = inForce[name], conflicts[name]
	}
}

// save brings the accepted copies on disk up to date, and writes nothing when they are.
func (s *store) save() error {
	if s.dirError != nil {
		return nil
	}
	var errs []error
	for name, f := range s.files {
		if f.accepted == nil || f.accepted.Digest != f.digest {
			continue
		}
		if f.saved == f.digest {
			f.data = nil
			continue
		}
		if err := s.accepted.save(name, f.data); err != nil {
			errs = append(errs, err)
			continue
		}
		f.saved, f.data = f.digest, nil
	}
	for _, name := range s.accepted.names() {
		if s.files[name] == nil {
			errs = append(errs, s.accepted.forget(name))
		}
	}
	if s.last != nil {
		errs = append(errs, s.accepted.saveInForce(s.last))
	}
	return errors.Join(errs...)
}

// snapshot resolves what changed of what is in force.
func (s *store) snapshot() *Snapshot {
	s.tell()
	var errs []SourceError
	if s.dirError != nil {
		errs = append(errs, SourceError{s.dir, s.dirError.Error()})
	}
	for _, name := range s.names() {
		f, path := s.files[name], filepath.Join(s.dir, name)
		for _, message := range f.errs {
			errs = append(errs, SourceError{path, message})
		}
		if f.writing >= settleRounds {
			errs = append(errs, SourceError{path, fmt.Sprintf("%s: is being written all the time, so it is not read; have its writer rename a finished file into place", name)})
		}
		if f.conflict != "" {
			errs = append(errs, SourceError{path, f.conflict})
		}
	}
	s.last = s.resolver.Snapshot().WithErrors(append(errs, s.usefulOldErrors()...)...)
	return s.last
}

// tell has the resolver know the files in force. No two of them have an object in common, but one may have moved from a
// file to another: what none of those that came has is gone.
func (s *store) tell() {
	came := make(map[manifest.Key]bool)
	var went []manifest.Key
	for name, was := range s.told {
		if f := s.files[name]; f == nil || f.accepted != was {
			went = append(went, was.Keys...)
			delete(s.told, name)
		}
	}
	for name, f := range s.files {
		file := f.accepted
		if file == nil || s.told[name] == file {
			continue
		}
		s.told[name] = file
		for _, key := range file.Keys {
			came[key] = true
		}
		for _, svc := range file.Services {
			s.resolver.SetService(svc)
		}
		for _, slice := range file.EndpointSlices {
			s.resolver.SetSlice(NewEndpointSlice(slice, filepath.Join(s.dir, name)))
		}
		for _, vs := range file.VirtualServers {
			s.resolver.SetVirtualServer(NewVirtualServer(vs, file.Digest))
		}
	}
	for _, key := range went {
		if !came[key] {
			s.forget(key)
		}
	}
}

func (s *store) forget(key manifest.Key) {
	switch key.Kind {
	case v1alpha1.KindVirtualServer:
		s.resolver.DeleteVirtualServer(key.NamespacedName)
	case "Service":
		s.resolver.DeleteService(key.NamespacedName)
	case "EndpointSlice":
		s.resolver.DeleteSlice(key.NamespacedName)
	}
}

// usefulOldErrors leaves out accepted copies that a good manifest has replaced.
func (s *store) usefulOldErrors() []SourceError {
	return slices.DeleteFunc(slices.Clone(s.oldErrors), func(e SourceError) bool {
		f := s.files[filepath.Base(e.Source)]
		return e.Source != s.accepted.dir && s.dirError == nil && (f == nil || f.accepted != nil)
	})
}
