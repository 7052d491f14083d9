package main

import (
	"bytes"
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"os"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

var update = flag.Bool("update", false, "write what the tests of the status tree want")

// now is when the golden pictures are looked at.
var now = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// TestStatusTree draws what is in testdata/status, as on a terminal of 80 columns and as in a pipe.
func TestStatusTree(t *testing.T) {
	files, err := filepath.Glob("testdata/status/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	seen := map[v1alpha1.Phase]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			drawn := &txtar.Archive{Comment: archive.Comment}
			text := map[string][]byte{}
			for _, f := range archive.Files {
				if text[f.Name] = f.Data; strings.HasSuffix(f.Name, ".yaml") {
					drawn.Files = append(drawn.Files, f)
				}
			}
			pictures := picturesIn(t, text)
			for _, p := range pictures {
				seen[p.status.Phase] = true
			}
			for _, how := range []struct {
				name string
				painter
			}{{"terminal", painter{width: 80, now: now}}, {"pipe", painter{}}} {
				var b bytes.Buffer
				how.w = &b
				for i := range pictures {
					how.server(&pictures[i])
				}
				drawn.Files = append(drawn.Files, txtar.File{Name: how.name, Data: b.Bytes()})
				if how.width > 0 {
					for line := range strings.Lines(b.String()) {
						require.LessOrEqual(t, visible(strings.TrimSuffix(line, "\n")), how.width, "%q", line)
					}
				}
			}
			if *update {
				require.NoError(t, os.WriteFile(file, txtar.Format(drawn), 0o644))
				return
			}
			require.Equal(t, string(txtar.Format(archive)), string(txtar.Format(drawn)), "go test ./cmd/pointsman -run TestStatusTree -update writes them")
		})
	}
	for _, phase := range []v1alpha1.Phase{
		v1alpha1.PhaseSteady, v1alpha1.PhaseStaging, v1alpha1.PhaseStepping, v1alpha1.PhaseSwitching,
		v1alpha1.PhaseObserving, v1alpha1.PhaseRolledBack, v1alpha1.PhaseBlocked, "",
	} {
		require.True(t, seen[phase], "no picture of phase %q", phase)
	}
}

// picturesIn reads a VirtualServer with the reports of nodes, or a node's own status.
func picturesIn(t *testing.T, text map[string][]byte) []picture {
	if local, ok := text["status.yaml"]; ok {
		var status sync.Status
		require.NoError(t, yaml.UnmarshalStrict(local, &status))
		return picturesOf(&status, map[types.NamespacedName]*v1alpha1.VirtualServerSpec{})
	}
	var vs v1alpha1.VirtualServer
	require.NoError(t, yaml.UnmarshalStrict(text["virtualserver.yaml"], &vs))
	var reports []v1alpha1.NodeReport
	for doc := range strings.SplitSeq(string(text["reports.yaml"]), "---\n") {
		var r v1alpha1.NodeReport
		require.NoError(t, yaml.UnmarshalStrict([]byte(doc), &r))
		if r.Name != "" {
			reports = append(reports, r)
		}
	}
	return []picture{pictureOf(&vs, reports)}
}
