package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/endpoints/cluster"
	"github.com/pointsman/pointsman/sync"
)

// source is what the daemon runs: the manifests when a directory of them is named, else the cluster.
type source interface {
	sync.Source
	Run(context.Context) error
	String() string
}

func (s *settings) source(log logrus.FieldLogger) (source, error) {
	if s.manifests != "" {
		return endpoints.New(s.manifests, s.stateDir, log), nil
	}
	config, err := s.restConfig()
	if err != nil {
		return nil, err
	}
	return cluster.New(config, cluster.Options{NodeName: s.nodeName, StateDir: s.stateDir, Log: log})
}

// loadPatience is how long a command waits for the API server.
const loadPatience = 15 * time.Second

// load gives what could get traffic at this moment, for a command.
func (s *settings) load(ctx context.Context) (snap *endpoints.Snapshot, err error) {
	if s.manifests != "" {
		return endpoints.Load(s.manifests, s.stateDir)
	}
	quiet := logrus.New()
	quiet.SetLevel(logrus.ErrorLevel)
	quiet.SetOutput(s.log.Out)
	src, err := s.source(quiet)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return src.Run(running) })
	select {
	case <-src.Changed():
		snap = src.Snapshot()
	case <-ctx.Done():
	}
	cancel()
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if snap == nil {
		return nil, fmt.Errorf("%s: %w", src, errors.New("it did not tell all that is needed in time; is it reachable, and is this user allowed to list VirtualServers, Services, EndpointSlices and Pods?"))
	}
	return snap, nil
}
