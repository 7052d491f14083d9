package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

// Prefix begins the name of every test that needs the cluster, so that -run and -skip can tell.
const Prefix = "TestCluster"

// handover is the variable that tells the guest's half where the host's half left its files.
const handover = "POINTSMAN_CLUSTER"

// untilVariable is the variable that names the second, since 1970, from which on no further test begins: for a CI
// that ends a run after some time, on a machine that may be slow.
const untilVariable = "POINTSMAN_CLUSTER_UNTIL"

// binariesVariable is the variable that names the folder of the control plane's programs.
const binariesVariable = "POINTSMAN_CLUSTER_BINARIES"

var (
	mu     sync.Mutex
	wanted []string // tests that have to run in the guest, set while m.Run runs
	guest  string   // its kernel; "" is the script's own choice
)

// Main is TestMain of a package with tests in the cluster: os.Exit(cluster.Main(m)). On the host such
// tests only say that they are wanted; then the control plane is started and the same binary runs
// them in a guest.
func Main(m *testing.M) int {
	code := m.Run()
	if len(wanted) == 0 || code != 0 {
		return code
	}
	code, err := serveGuest(guest)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	return code
}

// Require lets the test go on only in a guest beside which a control plane runs.
func Require(t *testing.T) {
	t.Helper()
	root, _, _ := strings.Cut(t.Name(), "/")
	if !strings.HasPrefix(root, Prefix) {
		t.Fatalf("%s needs the cluster: its name must begin with %s", root, Prefix)
	}
	if os.Getenv(handover) != "" {
		if err := kerneltest.Native(); err != nil {
			t.Fatalf("inside the guest: %v", err)
		}
		if until, err := strconv.ParseInt(os.Getenv(untilVariable), 10, 64); err == nil && time.Now().Unix() >= until {
			t.Skipf("no time is left for %s: it was to begin before %s", root, time.Unix(until, 0).UTC().Format(time.RFC3339))
		}
		return
	}
	if os.Getenv("POINTSMAN_VM") != "" {
		t.Fatal("the control plane runs on the host: run this test there, it makes a guest itself")
	}
	mu.Lock()
	wanted = append(wanted, root)
	// Read while the tests run: only then is it part of what go test caches a result by.
	guest = os.Getenv("POINTSMAN_TEST_KERNEL")
	mu.Unlock()
	t.Skip("runs in the guest, after the others")
}

// serveGuest runs the wanted tests in a guest with a control plane beside it.
func serveGuest(kernel string) (int, error) {
	binaries, err := prepare()
	if err != nil {
		return 0, err
	}
	folder, err := os.MkdirTemp("", "pointsman-cluster-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(folder)
	began := time.Now()
	plane, err := NewControlPlane(folder, binaries)
	if err != nil {
		return 0, err
	}
	defer func() { _ = plane.Stop() }()
	if err := plane.Start(); err != nil {
		return 0, fmt.Errorf("starting the control plane: %w", err)
	}
	fmt.Printf("cluster: the control plane is ready after %v; to look inside: %s --kubeconfig %s\n",
		time.Since(began).Round(10*time.Millisecond), filepath.Join(binaries, "kubectl"), plane.path("host.kubeconfig"))
	remote, err := serveRemote(plane)
	if err != nil {
		return 0, err
	}
	defer remote.Close()
	for name, value := range map[string]string{handover: folder, remoteVariable: remote.url(), binariesVariable: binaries} {
		if err := os.Setenv(name, value); err != nil { // the guest's job gets this process's environment
			return 0, err
		}
	}
	code := kerneltest.RunInGuest(kernel, wanted, "--net", "--memory", "3072")
	if code != 0 {
		remote.Close()
		fmt.Fprint(os.Stderr, plane.tails(6))
	}
	return code, nil
}

// prepare installs what the tests need and builds the control plane, which takes minutes the first
// time, and gives the folder of its programs.
func prepare() (string, error) {
	root, err := checkout()
	if err != nil {
		return "", err
	}
	setup := exec.Command(filepath.Join(root, "scripts", "setup"), "cluster")
	setup.Stderr = os.Stderr
	if err := setup.Run(); err != nil {
		return "", fmt.Errorf("installing what the cluster needs: %w", err)
	}
	build := exec.Command(filepath.Join(root, "scripts", "controlplane"))
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return "", fmt.Errorf("building the control plane: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// checkout is the folder of the checkout that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "controlplane")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("there is no scripts/controlplane above the working directory")
}
