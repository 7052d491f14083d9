// Package kerneltest runs the tests that need IPVS on a kernel that has it.
//
// A test whose name begins with TestKernel calls [Namespace] first. Where the machine's own kernel
// has ip_vs and the user is root it runs there, in a fresh network namespace. Everywhere else [Main]
// runs the same test binary again inside a throw-away guest (scripts/vm), with just those tests.
// There is no third way: where neither can be had the test run fails and says what is missing.
package kerneltest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Prefix begins the name of every test that needs the kernel, so that -run and -skip can tell.
const Prefix = "TestKernel"

var (
	mu     sync.Mutex
	wanted []string // tests that have to run in the guest, set while m.Run runs
	guest  string   // its kernel; "" is the script's own choice
)

// Main is TestMain of a package with kernel tests: os.Exit(kerneltest.Main(m)).
func Main(m *testing.M) int {
	code := m.Run()
	if len(wanted) == 0 || code != 0 {
		return code
	}
	return RunInGuest(guest, wanted)
}

// RunInGuest runs this test binary again under scripts/vm, only the given tests, and gives back the
// exit status. Kernel "" is the script's own choice; options are more of the script's.
func RunInGuest(kernel string, tests []string, options ...string) int {
	vm, err := script("vm")
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: this kernel cannot run", tests, "and", err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	if kernel != "" {
		options = append(options, "--kernel", kernel)
	}
	args := append(options, "--", self)
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.run", "test.testlogfile", "test.paniconexit0", "test.coverprofile", "test.gocoverdir", "test.outputdir":
		default:
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	args = append(args, "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd := exec.Command(vm, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The guest is not to outlive a test run that was killed. The kernel sends the signal when the
	// parent *thread* ends, so it has to be one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "FAIL:", err)
	return 1
}

// script finds scripts/NAME of the checkout that the working directory is in.
func script(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "scripts", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no scripts/%s above the working directory to run them in a guest", name)
}

// native says why this process cannot run kernel tests itself; nil when it can.
func native() error {
	if os.Geteuid() != 0 {
		return errors.New("the user is not root")
	}
	// Not only what is needed at once: IPVS loads a missing scheduler or persistence engine while it
	// holds its mutex. One that registers per-namespace state (lblc, lblcr, pe_sip) then waits for the
	// end of a namespace, which waits for that mutex: seen to deadlock 6.1 for good.
	for _, module := range []string{"ip_vs", "ip_vs_lblc", "ip_vs_lblcr", "ip_vs_pe_sip", "nf_conntrack", "dummy", "veth"} {
		if _, err := os.Stat("/sys/module/" + module); err == nil {
			continue
		}
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			return fmt.Errorf("the kernel has no module %s: %s", module, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

var nativeOnce = sync.OnceValue(native)

// Native says why this process cannot run kernel tests itself; nil when it can, and then the modules
// that IPVS must not load by itself are loaded.
func Native() error { return nativeOnce() }

// Require lets the test go on only on a kernel with IPVS and as root. Elsewhere it leaves the test
// to the guest; inside the guest, a kernel without IPVS is a failure.
func Require(t testing.TB) {
	t.Helper()
	root, _, _ := strings.Cut(t.Name(), "/")
	if _, isTest := t.(*testing.T); isTest && !strings.HasPrefix(root, Prefix) {
		t.Fatalf("%s needs the kernel: its name must begin with %s", root, Prefix)
	}
	err := nativeOnce()
	if err == nil {
		return
	}
	if os.Getenv("POINTSMAN_VM") != "" {
		t.Fatalf("inside the guest: %v", err)
	}
	mu.Lock()
	wanted = append(wanted, root)
	// Read while the tests run: only then is it part of what go test caches a result by.
	guest = os.Getenv("POINTSMAN_TEST_KERNEL")
	mu.Unlock()
	t.Skipf("%v: runs in the guest, after the others", err)
}

// Namespace puts the calling goroutine's thread, until the test ends, in a fresh network namespace
// with its loopback up. Threads that it starts are not in it: use [In] for those.
func Namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	Require(t)
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = netns.Set(home)
		_ = home.Close()
		_ = ns.Close()
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	return ns
}

// In runs f on a thread inside the namespace and gives back what it returns.
func In(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so a failed return home can't leak.
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("entering the namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
