package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrModule is a kernel module that is not there and could not be loaded.
var ErrModule = errors.New("kernel module missing")

// Modules are those that no virtual server can do without.
//
// The kernel loads by itself (seen on 6.1 and 7.2): ip_vs_<scheduler> when a virtual server asks for it, dummy
// when a device of that type is made, nf_tables, nft_* and nf_conntrack when nftables rules need them, ip_vs when
// its generic netlink family is asked for. All of that through the host's own modprobe, so it works in an image
// that has none. It does not where the modules are not installed or loading is turned off (kernel.modules_disabled).
var Modules = []string{"ip_vs", "nf_conntrack"}

// EnsureScheduler loads an IPVS scheduler, named as in "rr", before a virtual server asks for it. IPVS would
// load it itself, but while it holds its mutex: lblc and lblcr register per-namespace state, which waits for
// namespaces that are being deleted, which wait for that mutex. Seen on 6.1: IPVS, modprobe and the deletion of
// every namespace hung for good. So IPVS is not to be asked for those two after an error, which is ErrModule. Any other
// that can't be loaded from here (an image has no modprobe) is no error: IPVS loads it, or says that there is none.
func (n *Node) EnsureScheduler(name string) error {
	if err := EnsureModules("ip_vs_" + name); name == "lblc" || name == "lblcr" {
		return err
	}
	return nil
}

// EnsureModules sees to it that the kernel has the modules, named as modprobe names them. The error is
// ErrModule and says for each that is missing what to do.
func EnsureModules(names ...string) error {
	var errs []error
	for _, name := range names {
		if HasModule(name) {
			continue
		}
		if name == "ip_vs" {
			// Asking the kernel's own loader; whether it helped is looked at below.
			_, _ = netlink.GenlFamilyGet("IPVS")
		}
		var why error
		if !HasModule(name) {
			why = modprobe(name)
		}
		if !HasModule(name) {
			errs = append(errs, fmt.Errorf("%w: %s (%w): run `modprobe %s` on the node, and put it into /etc/modules-load.d for the next boot", ErrModule, name, why, name))
		}
	}
	return errors.Join(errs...)
}

func modprobe(name string) error {
	path, err := exec.LookPath("modprobe")
	if err != nil {
		path = "/sbin/modprobe" // often not in a service's PATH
	}
	out, err := exec.Command(path, "--", name).CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		return errors.New(text)
	}
	if err == nil {
		return errors.New("modprobe said nothing against it")
	}
	return err
}

// evidence are files that are there when a module is, even where it is built in and has no parameters, and so
// has nothing in /sys/module.
var evidence = map[string]string{
	"ip_vs":        "/proc/net/ip_vs",
	"nf_conntrack": "/proc/sys/net/netfilter/nf_conntrack_max",
}

// HasModule is whether the kernel has the module loaded or built in.
func HasModule(name string) bool {
	name = strings.ReplaceAll(name, "-", "_")
	for _, path := range []string{"/sys/module/" + name, evidence[name]} {
		if _, err := os.Stat(path); path != "" && err == nil {
			return true
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	f, err := os.Open("/lib/modules/" + unix.ByteSliceToString(u.Release[:]) + "/modules.builtin")
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	// One path a line: kernel/net/netfilter/ipvs/ip_vs.ko
	for lines := bufio.NewScanner(f); lines.Scan(); {
		base := lines.Text()[strings.LastIndexByte(lines.Text(), '/')+1:]
		if strings.ReplaceAll(strings.TrimSuffix(base, ".ko"), "-", "_") == name {
			return true
		}
	}
	return false
}
