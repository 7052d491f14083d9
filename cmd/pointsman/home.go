package main

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/endpoints/cluster"
	"github.com/pointsman/pointsman/rollout"
)

// home is where VirtualServers are declared.
type home interface {
	// look gives one as it is declared and as it stands; [endpoints.ErrNotFound] when there is none.
	look(ctx context.Context, key types.NamespacedName) (*declared, error)
	// change changes what was declared when it was looked at, and gives it as it is then.
	change(ctx context.Context, was *declared, c endpoints.Change) (*declared, error)
	// follower looks at what becomes of what was written.
	follower(written *declared) follower
	// all gives those that there are.
	all(ctx context.Context) ([]*declared, error)
}

// follower looks at what becomes of one declaration.
type follower interface {
	see(ctx context.Context) (sighting, error)
	picture(ctx context.Context) (*picture, error)
}

// declared is a VirtualServer as commands see it.
type declared struct {
	key     types.NamespacedName
	spec    *v1alpha1.VirtualServerSpec // with defaults
	state   rollout.State
	colours map[string]rollout.Colour
	refused *endpoints.Refusal
	object  *v1alpha1.VirtualServer // in a cluster
	digest  string                  // of the manifest
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
	// Who waits for a switch looks at one object again and again; client-go's own limit is 5 a second.
	config.QPS, config.Burst = 50, 100
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
