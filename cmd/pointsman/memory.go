package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// How often the daemon collects garbage. While it starts, what it reads is kept for the most part, and
// collecting often would make traffic wait; from then on it keeps little but what lives, collecting costs it
// nothing at rest, and every node has a third more memory for others.
const (
	gcPercentStarting = 400
	gcPercent         = 40
	// restAfter is how long after its first table a daemon has written what follows from it.
	restAfter = 20 * time.Second
)

// collector sets how often garbage is collected, unless the user has, and gives back once what the start left
// behind. It is a task.
type collector struct{ served <-chan struct{} }

func newCollector(served <-chan struct{}) *collector {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercentStarting)
	}
	return &collector{served}
}

func (c *collector) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.served:
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	select {
	case <-ctx.Done():
	case <-time.After(restAfter):
		debug.FreeOSMemory()
	}
	return nil
}
