package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// The judge of the long test, on cases that are known.
func TestMayReach(t *testing.T) {
	zero := time.Now()
	at := func(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }
	done := []turn{{"v1", "v2", at(100), at(120)}, {"v2", "v3", at(200), at(220)}}
	for _, c := range []struct {
		start, connected int
		want             []string
	}{
		{50, 60, []string{"v1"}},
		{50, 110, []string{"v1", "v2"}},
		{110, 115, []string{"v1", "v2"}},
		{120, 125, []string{"v2"}},
		{130, 190, []string{"v2"}},
		{130, 205, []string{"v2", "v3"}},
		{50, 300, []string{"v1", "v2", "v3"}},
		{220, 300, []string{"v3"}},
	} {
		require.Equal(t, c.want, mayReach(done, "v1", lab.Connection{Start: at(c.start), Connected: at(c.connected)}), "%+v", c)
	}
}
