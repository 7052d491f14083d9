package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// How often the daemon collects garbage. While it starts, what it reads is kept for the most part, and
// collecting often would make traffic wait; from then on it keeps little but what lives, collecting costs it
// nothing at rest, and every node has more memory for others: what stays is less scattered, too. After a thousand
// statuses were written 27.4 MB were resident beside the program's file for 19 that live, and 29.5 at 40.
const (
	gcPercentStarting = 400
	gcPercent         = 20
)

// What is left behind after work is given back: Go itself collects when the heap has grown, which at rest it does not.
const (
	tidyEvery = 20 * time.Second
	tidyFrom  = 2 << 20 // bytes that are worth a collection
)

// collector sets how often garbage is collected, unless the user has, and gives back what is left behind. It is a task.
type collector struct {
	served <-chan struct{}
	gaps   uint64 // bytes that stayed when it was last tidied
	tidied uint64 // bytes that had been allocated then, ever
	seen   uint64 // the same, when it was last looked
	amid   bool   // it was last tidied in the middle of work
}

func newCollector(served <-chan struct{}) *collector {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercentStarting)
	}
	return &collector{served: served}
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
	// Where the kernel makes huge pages of everything, which many distributions have it do, it fills what was given back
	// between two small things in use with memory again, some 20 MB of it.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			h := readHeap()
			if c.untidy(h) {
				c.amid = !c.calm(h)
				debug.FreeOSMemory()
				h = readHeap()
				c.gaps, c.tidied = h.unused, h.allocated
			}
			c.seen = h.allocated
		}
	}
}

// untidy says whether it is time to tidy: much is unused; or work has ended, of which there was much since, or in the middle of which
// it was tidied last, so that what stayed then says little.
func (c *collector) untidy(h heap) bool {
	return h.unused > c.gaps+max(tidyFrom, h.live/10) ||
		c.calm(h) && (c.amid || h.allocated-c.tidied > max(tidyFrom, h.live/4))
}

// calm says that there was little work since it was last looked.
func (c *collector) calm(h heap) bool { return h.allocated-c.seen < tidyFrom }

// heap is its size in bytes.
type heap struct {
	unused    uint64 // neither given back to the system nor alive when garbage was last collected
	live      uint64 // alive then
	allocated uint64 // ever
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	h := heap{live: samples[3].Value.Uint64(), allocated: samples[4].Value.Uint64()}
	for _, s := range samples[:3] {
		h.unused += s.Value.Uint64()
	}
	h.unused -= min(h.live, h.unused)
	return h
}
