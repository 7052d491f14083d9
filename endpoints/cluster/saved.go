package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/atomicfile"
)

const (
	stateFile = "cluster-snapshot.json"
	// stateVersion is raised whenever Servers read by an older or newer program would mean something else.
	stateVersion = 1
	// A state is written saveInterval after the last, or saveCost times what writing took, but saveMost at
	// the latest: large states that change all the time must not cost a noticeable share of the node.
	saveInterval = time.Second
	saveCost     = 50
	saveMost     = 10 * time.Second
	// savePatience is how long after a start nothing is written: then the kernel is, which is more urgent.
	savePatience = 3 * time.Second
)

// state is the file's content. What was wrong at the time is not kept.
type state struct {
	Version int             `json:"version"`
	Saved   time.Time       `json:"saved"`
	Servers json.RawMessage `json:"servers"`
}

// saved is the last known state on disk.
type saved struct {
	path     string
	patience time.Duration       // how long after a start nothing is written
	loaded   *endpoints.Snapshot // as it was at the start; nil: there was none
	loadedOf time.Time
	onDisk   [sha256.Size]byte // digest of the Servers; they themselves may be large

	pending atomic.Pointer[endpoints.Snapshot]
	wanted  chan struct{}
}

func newSaved(path string) *saved { return &saved{path: path, wanted: make(chan struct{}, 1)} }

// load reads the file. Whatever is wrong with it, there is then no last known state, and it is
// overwritten by the next.
func (d *saved) load() error {
	data, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the last known state: %w", err)
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("reading the last known state from %s: %w", d.path, err)
	}
	if st.Version != stateVersion {
		return fmt.Errorf("reading the last known state from %s: it has version %d, and this program reads %d", d.path, st.Version, stateVersion)
	}
	snap := &endpoints.Snapshot{}
	decoder := json.NewDecoder(bytes.NewReader(st.Servers))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&snap.Servers); err != nil {
		return fmt.Errorf("reading the last known state from %s: %w", d.path, err)
	}
	for i := range snap.Servers {
		if s := &snap.Servers[i]; s.Spec == nil {
			return fmt.Errorf("reading the last known state from %s: VirtualServer %s has no Spec", d.path, s.Key)
		}
	}
	d.loaded, d.loadedOf, d.onDisk = snap, st.Saved, sha256.Sum256(st.Servers)
	return nil
}

// next has a Snapshot written soon.
func (d *saved) next(snap *endpoints.Snapshot) {
	d.pending.Store(snap)
	select {
	case d.wanted <- struct{}{}:
	default:
	}
}

// keep writes what it is given until ctx ends, the latest of all once more then. Failing to do so harms
// the next restart, not traffic: it is counted, logged and tried again.
func (d *saved) keep(ctx context.Context, out *endpoints.Publisher) {
	failed := ""
	pause := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	for first := true; ctx.Err() == nil; first = false {
		select {
		case <-ctx.Done():
		case <-d.wanted:
		}
		if first {
			pause(d.patience)
		}
		start := time.Now()
		if snap := d.pending.Load(); snap != nil {
			err := d.write(snap, start)
			if text := fmt.Sprint(err); err != nil && text != failed {
				out.Fail(err, "a restart without an API server would not know what is in force")
				failed = text
			}
			if err != nil {
				d.next(snap)
			} else {
				failed = ""
				d.pending.CompareAndSwap(snap, nil)
			}
		}
		pause(min(max(saveInterval, saveCost*time.Since(start)), saveMost))
	}
	if snap := d.pending.Load(); snap != nil {
		if err := d.write(snap, time.Now()); err != nil {
			out.Fail(err, "a restart without an API server would not know what was in force last")
		}
	}
}

// write puts a Snapshot on disk if it is not there.
func (d *saved) write(snap *endpoints.Snapshot, now time.Time) error {
	servers, err := encode(snap.Servers)
	if err != nil {
		return fmt.Errorf("keeping the last known state: %w", err)
	}
	digest := sha256.Sum256(servers)
	if digest == d.onDisk {
		return nil
	}
	var data bytes.Buffer
	data.Grow(len(servers) + 100)
	fmt.Fprintf(&data, `{"version":%d,"saved":%q,"servers":`, stateVersion, now.UTC().Format(time.RFC3339Nano))
	data.Write(servers)
	data.WriteString("}\n")
	if err := os.MkdirAll(filepath.Dir(d.path), 0o750); err != nil {
		return fmt.Errorf("keeping the last known state: %w", err)
	}
	if err := atomicfile.WriteDurably(d.path, data.Bytes(), 0o640); err != nil {
		return fmt.Errorf("keeping the last known state: %w", err)
	}
	d.onDisk = digest
	return nil
}
