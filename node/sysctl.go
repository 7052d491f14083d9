package node

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl is a setting that pointsman needs to have a certain value.
type Sysctl struct {
	Key  string // as sysctl(8) writes it: "net.ipv4.vs.conntrack"
	Want string
	Why  string
	// Optional: a kernel that lacks the key serves all the same.
	Optional bool
}

// String is the command that sets it.
func (s Sysctl) String() string { return "sysctl -w " + s.Key + "=" + s.Want }

// hostProc is where a container may have the host's /proc/sys/net mounted a second time, writable. Container
// runtimes mount /proc/sys read-only unless the container is privileged; through another mount of it CAP_NET_ADMIN
// is enough for the settings of the network namespace that one is in. See deploy/daemonset.yaml.
const hostProc = "/host"

// path is where the key is. No key of ours has a dot within a part.
func (s Sysctl) path() string { return "/proc/sys/" + strings.ReplaceAll(s.Key, ".", "/") }

// Sysctls are the settings for a node, all of them per network namespace, in the order to set them in.
// With ipv6 they have forwarding of IPv6 too; ask for it only when there is an IPv6 virtual server to
// serve, for it makes interfaces with accept_ra=1 take no more router advertisements, and with them no
// default route ([Node.Preflight] warns of those).
//
// What else turning net.ipv4.ip_forward on does (seen on 6.1 and 7.2): forwarding of every interface and
// of those to come is set to 1, net.ipv4.conf.all.accept_redirects to 0. That of IPv6 sets the forwarding
// of every interface. Neither touches rp_filter.
func Sysctls(ipv6 bool) []Sysctl {
	const forward = "packets go on to real servers on other nodes and in pods"
	list := []Sysctl{{Key: "net.ipv4.ip_forward", Want: "1", Why: forward}}
	if ipv6 {
		list = append(list, Sysctl{Key: "net.ipv6.conf.all.forwarding", Want: "1", Why: forward})
	}
	vs := func(key, want, why string, optional bool) {
		list = append(list, Sysctl{Key: "net.ipv4.vs." + key, Want: want, Why: why, Optional: optional})
	}
	vs("conntrack", "1", "masquerade: nftables sees IPVS's connections", false)
	vs("conn_reuse_mode", "1", "a client that reuses its source port is scheduled anew, not sent to the previous colour", false)
	vs("expire_nodest_conn", "1", "UDP flows and retransmitted SYNs leave a real server that is gone or at weight 0", false)
	vs("expire_quiescent_template", "1", "session affinity does not hold on to a real server at weight 0", false)
	vs("cache_bypass", "0", "a virtual server without real server refuses, it does not pass clients on", false)
	vs("sloppy_tcp", "0", "a stray packet makes no connection", true)
	vs("drop_entry", "0", "no connection is forgotten at random", false)
	vs("drop_packet", "0", "no packet is dropped at random", false)
	vs("secure_tcp", "0", "the usual timeouts of TCP hold", false)
	// From Linux 7.0 on the table of connections grows with their number. While it grows, a client that uses
	// a source port again is reset: its packets find the old connection, which leads to another real server
	// (seen on 7.2, at each doubling from 16 connections on). With 2^4 entries to a bucket instead of the
	// kernel's 2^-4 it grows first at 4,096, and its chains are as short as those of the fixed table of
	// earlier kernels at 32,768 connections.
	vs("conn_lfactor", "4", "a client that reuses its source port is not reset while the table of connections grows", true)
	vs("backup_only", "0", "this node serves even as a backup of connection synchronisation", true)
	return list
}

// SysctlDiff is a setting that is not as it should be.
type SysctlDiff struct {
	Sysctl
	Have string // "" when Missing
	// Missing: this kernel, or this namespace before its module is loaded, has no such key.
	Missing bool
}

// CheckSysctls reads the settings and gives back those that differ; none for a node that is right. An
// error is one of reading; a missing key is none, and no difference either when it is Optional.
func (n *Node) CheckSysctls(want []Sysctl) ([]SysctlDiff, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []SysctlDiff
	for _, s := range want {
		value, err := n.readSysctl(s)
		switch {
		case errors.Is(err, os.ErrNotExist) && s.Optional:
		case errors.Is(err, os.ErrNotExist):
			out = append(out, SysctlDiff{Sysctl: s, Missing: true})
		case err != nil:
			return nil, fmt.Errorf("reading sysctl %s: %w", s.Key, err)
		case value != s.Want:
			out = append(out, SysctlDiff{Sysctl: s, Have: value})
		}
	}
	return out, nil
}

// readSysctl reads a setting at the cost of one system call: they are looked at several times a second, so
// their files stay open. Such a file is of the namespace that it was opened in.
func (n *Node) readSysctl(s Sysctl) (string, error) {
	var buf [64]byte
	fd, known := n.sysctls[s.Key]
	if known {
		if got, err := unix.Pread(fd, buf[:], 0); err == nil {
			return strings.TrimSpace(string(buf[:got])), nil
		}
		// Its module went, and may have come again.
		delete(n.sysctls, s.Key)
		_ = unix.Close(fd)
	}
	err := n.in(func() (err error) {
		fd, err = unix.Open(s.path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return os.NewSyscallError("open", err)
	})
	if err != nil {
		return "", err
	}
	got, err := unix.Pread(fd, buf[:], 0)
	if err != nil {
		_ = unix.Close(fd)
		return "", os.NewSyscallError("pread", err)
	}
	if n.sysctls == nil {
		n.sysctls = map[string]int{}
	}
	n.sysctls[s.Key] = fd
	return strings.TrimSpace(string(buf[:got])), nil
}

// SetSysctls writes those settings, and no others. One that the kernel lacks is passed over when it is
// Optional, else an error (os.ErrNotExist); one that can't be written does not keep the others from being.
func (n *Node) SetSysctls(diffs []SysctlDiff) error {
	return n.in(func() error {
		var errs []error
		for _, d := range diffs {
			err := writeSysctl(d.path(), d.Want)
			if errors.Is(err, unix.EROFS) {
				if second := writeSysctl(hostProc+d.path(), d.Want); !errors.Is(second, os.ErrNotExist) {
					err = second
				}
			}
			switch {
			case err == nil, d.Optional && errors.Is(err, os.ErrNotExist):
			case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(d.Key, "net.ipv4.vs."):
				errs = append(errs, fmt.Errorf("setting %s=%s: %w (is ip_vs loaded? try `modprobe ip_vs`)", d.Key, d.Want, err))
			case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
				errs = append(errs, fmt.Errorf("setting %s=%s: %w (a container needs NET_ADMIN and the host's /proc/sys/net mounted at "+hostProc+"/proc/sys/net)", d.Key, d.Want, err))
			default:
				errs = append(errs, fmt.Errorf("setting %s=%s: %w", d.Key, d.Want, err))
			}
		}
		return errors.Join(errs...)
	})
}

// writeSysctl writes without creating: /proc would refuse that with the wrong error.
func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// HasIPv6 is whether the namespace has IPv6 and has it turned on.
func (n *Node) HasIPv6() bool {
	on := false
	_ = n.in(func() error {
		value, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
		on = err == nil && strings.TrimSpace(string(value)) == "0"
		return nil
	})
	return on
}
