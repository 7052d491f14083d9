package kerneltest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestKernelHasIPVS(t *testing.T) {
	Namespace(t)
	table, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil || len(table) == 0 {
		t.Fatalf("no IPVS table in the namespace: %q, %v", table, err)
	}
}
