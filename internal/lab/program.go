package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ProgramVariable is the variable that names the program under test.
const ProgramVariable = "POINTSMAN_BIN"

// BuildProgram builds the program under test where the variable names none, and has it name what was built
// until remove is called. The guest sees the host's root, so the path holds there too.
func BuildProgram() (remove func(), err error) {
	if os.Getenv(ProgramVariable) != "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "pointsman-e2e-")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	path := filepath.Join(dir, "pointsman")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/pointsman/pointsman/cmd/pointsman")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return nil, fmt.Errorf("building the program under test: %w\n%s", err, out)
	}
	return remove, os.Setenv(ProgramVariable, path)
}
