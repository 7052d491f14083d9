package ipvs_test

import (
	"flag"
	"os"
	"testing"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestMain(m *testing.M) {
	if os.Getenv("POINTSMAN_VM") != "" { // emulated: a check takes a hundred times as long
		_ = flag.Set("rapid.checks", "25")
	}
	os.Exit(kerneltest.Main(m))
}
