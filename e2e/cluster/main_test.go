package cluster

import (
	"fmt"
	"os"
	"testing"

	"github.com/pointsman/pointsman/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	remove, err := lab.BuildProgram()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	defer remove()
	return Main(m)
}
