package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	remove, err := lab.BuildProgram()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	defer remove()
	return kerneltest.Main(m)
}
