// Package deploy checks what the YAML in this folder says, as far as that goes without a cluster: that it
// decodes, fits together and fits the program, and (container_test.go) that what it grants is what
// the daemon needs, in a container on a real kernel.
package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

// binary is the variable that names the program under test; without it TestMain builds the program.
const binary = "POINTSMAN_BIN"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(binary) == "" {
		dir, err := os.MkdirTemp("", "pointsman-deploy-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "pointsman")
		build := exec.Command("go", "build", "-trimpath", "-o", path, "../cmd/pointsman")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "FAIL: building the program under test: %v\n%s", err, out)
			return 1
		}
		// The guest sees the host's root, so the path holds there too.
		if err := os.Setenv(binary, path); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			return 1
		}
	}
	return kerneltest.Main(m)
}
