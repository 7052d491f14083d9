package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/sync"
)

// manifestHome is a directory of manifests, and the state directory of the daemon that serves them.
type manifestHome struct{ dir, stateDir string }

func (h manifestHome) load() ([]*declared, error) {
	// Where it stands is read first: what is declared may only be newer.
	ledger, err := sync.LoadLedger(h.stateDir)
	if err != nil {
		return nil, err
	}
	snap, err := endpoints.Load(h.dir, h.stateDir)
	if err != nil {
		return nil, err
	}
	var out []*declared
	for i := range snap.Servers {
		s := &snap.Servers[i]
		out = append(out, &declared{
			key: s.Key, spec: s.Spec, state: ledger.Rollouts[s.Key], colours: sync.Counts(s), refused: s.Refused, digest: s.Digest,
		})
	}
	return out, nil
}

func (h manifestHome) all(context.Context) ([]*declared, error) { return h.load() }

func (h manifestHome) look(_ context.Context, key types.NamespacedName) (*declared, error) {
	all, err := h.load()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range all {
		if d.key == key {
			return d, nil
		}
		names = append(names, d.key.String())
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return nil, fmt.Errorf("%w %s; declared: %s", endpoints.ErrNotFound, key, strings.Join(names, ", "))
}

func (h manifestHome) change(_ context.Context, was *declared, c endpoints.Change) (*declared, error) {
	_, digest, err := endpoints.Edit(h.dir, was.key, c)
	if err != nil {
		return nil, err
	}
	now := *was
	now.spec, now.digest = was.spec.DeepCopy(), digest
	c.To(now.spec)
	return &now, nil
}

func (h manifestHome) follower(written *declared) follower {
	return &manifestFollower{manifestHome: h, key: written.key, declared: written.spec.Active, digest: written.digest, spec: written.spec}
}

// manifestFollower reads the status that the daemon writes. That names the file's text by a digest, so it is known
// when it has seen the edit.
type manifestFollower struct {
	manifestHome
	key      types.NamespacedName
	declared string // spec.active, as it was last seen
	digest   string // of the file, then
	spec     *v1alpha1.VirtualServerSpec
	seen     bool // the daemon has seen the edit
	looked   time.Time
}

// lookAgain is how often the manifests are read while the daemon's answer is not about what was written.
const lookAgain = time.Second

func (f *manifestFollower) see(context.Context) (sighting, error) {
	out := sighting{declared: f.declared}
	status, err := sync.LoadStatus(f.stateDir)
	if sync.NoStatus(err) {
		out.lacks = "the daemon has written no status to " + f.stateDir + " (is `pointsman run` running with this --state-dir?)"
		return out, nil
	}
	if err != nil {
		return out, err
	}
	s := status.Server(f.key)
	if s == nil {
		out.lacks = "the daemon does not serve it yet"
		return out, nil
	}
	f.seen = f.seen || s.Digest == f.digest
	switch {
	case f.seen:
		f.declared = s.Declared
	case time.Since(f.looked) > lookAgain:
		// The file may have been changed again before the daemon saw it.
		if d, err := f.look(context.Background(), f.key); err == nil {
			f.declared, f.digest = d.spec.Active, d.digest
		}
		f.looked = time.Now()
	}
	out.declared, out.answered, out.state = f.declared, f.seen, rollout.FromStatus(&s.Status)
	out.total, out.staged, out.switched = int(s.Status.Nodes.Total), int(s.Status.Nodes.Staged), int(s.Status.Nodes.Switched)
	out.verified = s.Verified && f.seen
	switch {
	case !f.seen:
		out.lacks = "the daemon has not seen the change yet (is `pointsman run` running over these manifests?)"
	case status.Error != "":
		out.lacks = status.Error
	case !out.verified:
		out.lacks = "the kernel does not hold it yet"
	}
	return out, nil
}

func (f *manifestFollower) picture(context.Context) (*picture, error) {
	status, err := sync.LoadStatus(f.stateDir)
	if err != nil {
		return nil, err
	}
	all := picturesOf(status, map[types.NamespacedName]*v1alpha1.VirtualServerSpec{f.key: f.spec})
	for i := range all {
		if all[i].key == f.key {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("the daemon does not serve %s yet", f.key)
}
