package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/endpoints/cluster"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/sync"
)

// home is where VirtualServers are declared.
type home interface {
	// look gives one as it is declared and as it stands; [endpoints.ErrNotFound] when there is none.
	look(ctx context.Context, key types.NamespacedName) (*declared, error)
	// set declares another active colour in place of what was seen. await returns when that was read back
	// from the kernel of each node; a *[sync.BlockedError] says that it will not be.
	set(ctx context.Context, was *declared, colour string) (await func(context.Context) error, err error)
	// all gives those that there are.
	all(ctx context.Context) ([]*declared, error)
}

// declared is a VirtualServer as commands see it.
type declared struct {
	key     types.NamespacedName
	active  string // as declared
	state   rollout.State
	ready   map[string]int // endpoints that could serve every port, by colour
	refused *endpoints.Refusal
	object  *v1alpha1.VirtualServer // in a cluster
}

// colours counts endpoints as rollouts do.
func (d *declared) colours() map[string]rollout.Colour {
	out := map[string]rollout.Colour{}
	for colour, n := range d.ready {
		out[colour] = rollout.Colour{All: n, Ready: n}
	}
	return out
}

// home is the manifests when a directory of them is named, else the cluster.
func (s *settings) home() (home, error) {
	if s.manifests != "" {
		return manifestHome{s.manifests, s.stateDir}, nil
	}
	config, err := s.restConfig()
	if err != nil {
		return nil, err
	}
	d, err := cluster.NewDeclarations(config)
	if err != nil {
		return nil, err
	}
	return clusterHome{d}, nil
}

// restConfig is that of --kubeconfig, else of $KUBECONFIG or ~/.kube/config, else of the Pod that this is.
func (s *settings) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, usage("where are the VirtualServers? Set --%s to a directory of manifests, or --%s (or KUBECONFIG) to a cluster's kubeconfig file; in a Pod the cluster is found by itself", keyManifests, keyKubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return config, nil
}

type manifestHome struct{ dir, stateDir string }

func (h manifestHome) load() ([]*declared, error) {
	snap, err := endpoints.Load(h.dir, h.stateDir)
	if err != nil {
		return nil, err
	}
	ledger, err := sync.LoadLedger(h.stateDir)
	if err != nil {
		return nil, err
	}
	var out []*declared
	for i := range snap.Servers {
		s := &snap.Servers[i]
		out = append(out, &declared{key: s.Key, active: s.Spec.Active, state: ledger.Rollouts[s.Key], ready: sync.Ready(s), refused: s.Refused})
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

func (h manifestHome) set(_ context.Context, was *declared, colour string) (func(context.Context) error, error) {
	_, digest, err := endpoints.SetActive(h.dir, was.key, colour)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		return sync.AwaitActive(ctx, h.stateDir, was.key, colour, digest)
	}, nil
}

type clusterHome struct{ *cluster.Declarations }

func (h clusterHome) all(ctx context.Context) ([]*declared, error) {
	list, err := h.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []*declared
	for i := range list {
		out = append(out, declaredIn(&list[i]))
	}
	return out, nil
}

func (h clusterHome) look(ctx context.Context, key types.NamespacedName) (*declared, error) {
	vs, err := h.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return declaredIn(vs), nil
}

func declaredIn(vs *v1alpha1.VirtualServer) *declared {
	d := &declared{
		key: types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}, active: vs.Spec.Active, object: vs,
		state: rollout.FromStatus(&vs.Status),
		ready: map[string]int{},
	}
	for _, c := range vs.Status.Colours {
		d.ready[c.Name] = int(c.Ready)
	}
	accepted := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionAccepted)
	if accepted != nil && accepted.Status == metav1.ConditionFalse {
		d.refused = &endpoints.Refusal{Reason: accepted.Reason, Message: accepted.Message}
	}
	return d
}

func (h clusterHome) set(ctx context.Context, was *declared, colour string) (func(context.Context) error, error) {
	vs, err := h.SetActive(ctx, was.object, colour)
	if err != nil {
		return nil, err
	}
	was.object = vs // what may be taken back
	return func(ctx context.Context) error { return h.await(ctx, was.key, vs.Generation, colour) }, nil
}

// await looks at the status until the coordinator has seen the declaration done on every node, or not to be done.
func (h clusterHome) await(ctx context.Context, key types.NamespacedName, generation int64, colour string) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	last := errors.New("no status has been seen")
	for {
		vs, err := h.Get(ctx, key)
		switch {
		case err != nil && ctx.Err() == nil:
			last = err
		case err != nil:
		case vs.Generation != generation && vs.Spec.Active != colour:
			return fmt.Errorf("the declaration was changed again, to %s", vs.Spec.Active)
		default:
			c := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionSwitched)
			switch {
			case c == nil || c.ObservedGeneration < generation:
				last = errors.New("no daemon has seen the change yet (is pointsman running on the nodes?)")
			case c.Status == metav1.ConditionTrue && vs.Status.Active == colour:
				return nil
			case vs.Status.Phase == v1alpha1.PhaseBlocked, vs.Status.Phase == v1alpha1.PhaseRolledBack:
				return &sync.BlockedError{Reason: c.Reason, Message: c.Message}
			default:
				last = fmt.Errorf("%s: %s", c.Reason, c.Message)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", last, ctx.Err())
		case <-ticker.C:
		}
	}
}
