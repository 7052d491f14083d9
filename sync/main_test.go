package sync

import (
	"os"
	"testing"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }
