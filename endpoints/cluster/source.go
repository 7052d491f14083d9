package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/endpoints"
)

const (
	// Events that come within quiet of each other are one change; a steady stream of them is taken in
	// pieces of maxQuiet.
	quiet    = 5 * time.Millisecond
	maxQuiet = 100 * time.Millisecond
	// An EndpointSlice that is gone may be told of before its Service that is gone.
	slicePatience = 250 * time.Millisecond
	// startPatience is how long the watches may take to fill before the last known state is used.
	startPatience = 5 * time.Second
)

// Options are what a Source needs to know about its node.
type Options struct {
	NodeName string // tells nodes apart in the API server's audit log
	StateDir string // where the last known state is kept
	Log      logrus.FieldLogger
}

// Source watches an API server. [Source.Run] does it; the rest may be called from any goroutine.
type Source struct {
	client  *client
	options Options
	out     *endpoints.Publisher
	saved   *saved

	woken        chan struct{} // something that may be published changed
	lookupWanted chan struct{}

	// mu guards what follows. The watches put into it, and [Source.update] makes Snapshots of it.
	mu        sync.Mutex
	health    health
	resolver  *endpoints.Resolver
	servers   *store
	services  *store
	slices    *store
	pods      map[string]*podWatch // by colour label
	startPods func(*podWatch)      // has it watched; set by Run

	specs      specs                                             // of declared
	declared   map[types.NamespacedName]*endpoints.VirtualServer // as the API server has them
	applied    map[types.NamespacedName]*endpoints.VirtualServer // as the resolver has them
	missing    map[types.NamespacedName]*lookup
	left       map[types.NamespacedName]struct{}  // Services that the watch does not show any more, and the resolver has
	leftSlices map[types.NamespacedName]time.Time // slices that the watch does not show any more, and until when at least the resolver has them
	unsettled  bool                               // declared, or what it needs, changed

	started  time.Time
	patience time.Duration           // startPatience
	live     bool                    // what is in force came from the API server, since the start
	base     *endpoints.Snapshot     // in force, without our own errors
	errs     []endpoints.SourceError // our own errors, as last published or reported
}

// New does no I/O but reading what config names.
func New(config *rest.Config, o Options) (*Source, error) {
	c, err := newClient(config, o.NodeName)
	if err != nil {
		return nil, err
	}
	s := &Source{
		client: c, options: o,
		out:   endpoints.NewPublisher(o.Log),
		saved: newSaved(filepath.Join(o.StateDir, stateFile)),
		woken: make(chan struct{}, 1), lookupWanted: make(chan struct{}, 1),
		health:     newHealth(),
		patience:   startPatience,
		pods:       map[string]*podWatch{},
		specs:      specs{},
		declared:   map[types.NamespacedName]*endpoints.VirtualServer{},
		applied:    map[types.NamespacedName]*endpoints.VirtualServer{},
		missing:    map[types.NamespacedName]*lookup{},
		left:       map[types.NamespacedName]struct{}{},
		leftSlices: map[types.NamespacedName]time.Time{},
	}
	s.saved.patience = savePatience
	s.servers = s.newStore("virtualservers.pointsman.io", func(obj any) (any, error) { return obj, nil })
	s.servers.set, s.servers.remove = s.setServer, s.removeServer
	s.services = s.newStore("services", c.trimService)
	s.services.set, s.services.remove = s.setService, s.removeService
	s.slices = s.newStore("endpointslices.discovery.k8s.io", func(obj any) (any, error) { return obj, nil })
	s.slices.set, s.slices.remove = s.setSlice, s.removeSlice
	return s, nil
}

func (s *Source) newStore(name string, trim func(any) (any, error)) *store {
	return &store{s: s, name: name, trim: trim, have: map[types.NamespacedName]struct{}{}}
}

// Snapshot is the latest one; nil as long as nothing is known.
func (s *Source) Snapshot() *endpoints.Snapshot { return s.out.Snapshot() }

// Changed holds one token when the Snapshot has changed since the last one was taken.
func (s *Source) Changed() <-chan struct{} { return s.out.Changed() }

// Failures counts the errors found since the start.
func (s *Source) Failures() uint64 { return s.out.Failures() }

func (s *Source) String() string { return s.client.String() }

// Run watches until ctx is done; it returns nil then. Nothing that happens to the API server ends it.
func (s *Source) Run(ctx context.Context) error {
	s.started = time.Now()
	if err := s.saved.load(); err != nil {
		s.out.Fail(err, "the last known state is not used; without an API server nothing is known")
	}
	s.resolver = endpoints.NewResolver(s.podColour, s.saved.loaded)

	var running sync.WaitGroup
	s.startPods = func(p *podWatch) {
		var own context.Context
		own, p.cancel = context.WithCancel(ctx)
		running.Go(func() { p.store.run(own, s.client.pods(p.label), podExample) })
	}
	running.Go(func() { s.servers.run(ctx, s.client.virtualServers(), &declared{}) })
	running.Go(func() { s.services.run(ctx, s.client.services(), &corev1.Service{}) })
	running.Go(func() { s.slices.run(ctx, s.client.endpointSlices(), &slice{}) })
	running.Go(func() { s.lookups(ctx) })
	// Ends after follow, or what that published last would be kept by nobody.
	keeping, kept := context.WithCancel(context.WithoutCancel(ctx))
	running.Go(func() { s.saved.keep(keeping, s.out) })
	s.follow(ctx)
	kept()
	running.Wait()
	return nil
}

// follow publishes what the watches bring.
func (s *Source) follow(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(time.Until(s.update(time.Now())))
		select {
		case <-ctx.Done():
		case <-s.woken:
			s.calm(ctx)
		case <-timer.C:
		}
		timer.Stop()
	}
}

// calm returns when no event has come for a moment, or when that has taken long enough.
func (s *Source) calm(ctx context.Context) {
	bound := time.NewTimer(maxQuiet)
	defer bound.Stop()
	moment := time.NewTimer(quiet)
	defer moment.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-bound.C:
			return
		case <-moment.C:
			return
		case <-s.woken:
			moment.Reset(quiet)
		}
	}
}

func (s *Source) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// update makes of everything known what is to be in force, and says when to do so again at the latest.
func (s *Source) update(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	sooner(s.health.look(now))
	sooner(s.settle(now))
	sooner(s.dropSlices(now))
	waiting := s.waiting()
	held := s.health.held(now)
	sooner(held)

	base := s.base
	late := s.started.Add(s.patience)
	switch {
	case held.IsZero() && (s.live || len(waiting) == 0):
		base = s.resolver.Snapshot()
		s.live, s.saved.loaded = true, nil
	case s.live:
	case now.Before(late):
		sooner(late)
	case base == nil:
		base = s.saved.loaded
	}
	s.publish(base, s.trouble(now, base, waiting, late))
	return next
}

// trouble are our own errors, in words that stay the same for as long as the trouble does.
func (s *Source) trouble(now time.Time, base *endpoints.Snapshot, waiting []string, late time.Time) []endpoints.SourceError {
	held := "the last known state is held"
	switch {
	case base == nil:
		held = "nothing is known before"
	case !s.live:
		held = fmt.Sprintf("the state last kept on disk, of %s, is held", s.saved.loadedOf.UTC().Format(time.RFC3339))
	}
	errs := s.health.errors(s.String(), held)
	switch {
	case len(errs) > 0 || s.live || now.Before(late):
	case len(waiting) == 0:
		return s.errs // all is there and about to be published
	default:
		errs = append(errs, endpoints.SourceError{Source: s.String(), Message: fmt.Sprintf(
			"since the start at %s the API server has not sent all of %s; %s", s.started.UTC().Format(time.RFC3339), strings.Join(waiting, ", "), held)})
	}
	return errs
}

func (s *Source) publish(base *endpoints.Snapshot, errs []endpoints.SourceError) {
	if base == s.base && slices.Equal(errs, s.errs) {
		return
	}
	if base == nil {
		s.out.Report(s.errs, errs) // there is no Snapshot to carry them
	} else {
		if s.base == nil {
			s.out.Report(s.errs, nil) // from here on the Snapshot carries them
		}
		s.out.Publish(base.WithErrors(errs...))
		if s.live && base != s.base {
			s.saved.next(base)
		}
	}
	s.base, s.errs = base, errs
}
