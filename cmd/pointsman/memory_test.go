package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is left behind is given back while work goes on, once more when it has ended, and not again at rest.
func TestUntidy(t *testing.T) {
	const mb = 1 << 20
	c := collector{gaps: 10 * mb, tidied: 100 * mb, seen: 100 * mb}
	for _, step := range []struct {
		name string
		heap
		want bool
	}{
		{"work goes on, and not much is left behind", heap{unused: 11 * mb, live: 20 * mb, allocated: 130 * mb}, false},
		{"work goes on, and much is", heap{unused: 13 * mb, live: 20 * mb, allocated: 160 * mb}, true},
		{"work has ended since", heap{unused: 11 * mb, live: 20 * mb, allocated: 107 * mb}, false},
		{"it has ended", heap{unused: 11 * mb, live: 20 * mb, allocated: 108 * mb}, true},
	} {
		require.Equal(t, step.want, c.untidy(step.heap), step.name)
		c.seen = step.allocated
		if step.want {
			c.tidied, c.seen = 100*mb, 100*mb
		}
	}
	c = collector{gaps: 4 * mb, tidied: 200 * mb, seen: 200 * mb}
	require.False(t, c.untidy(heap{unused: 5 * mb, live: 20 * mb, allocated: 204 * mb}), "at rest little is allocated")
	c = collector{gaps: 9 * mb, tidied: 100 * mb, seen: 102 * mb, amid: true}
	require.False(t, c.untidy(heap{unused: 9 * mb, live: 20 * mb, allocated: 104 * mb}), "the work in the middle of which it was tidied goes on")
	require.True(t, c.untidy(heap{unused: 9 * mb, live: 20 * mb, allocated: 103 * mb}), "it ended soon after")
}
