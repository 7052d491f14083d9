package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Level is how bad a Finding is.
type Level string

// Levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // serves, but not as well or not for long
	Fail Level = "fail" // does not serve
)

// Finding is one thing that was looked at.
type Finding struct {
	Level   Level
	Subject string // what was looked at: "module ip_vs", "sysctl net.ipv4.vs.conntrack"
	Detail  string // what was found
	Mend    string // what to do about it; "" for OK
}

// preflight gathers findings; its fields are where it looks, so that tests can have it look elsewhere.
type preflight struct {
	proc      string        // "/proc"
	proxyMode string        // kube-proxy's answer to which mode it is in
	patience  time.Duration // until it answers
	addresses []netip.Addr  // the node's own, that serve node ports
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	findings  []Finding
}

func (p *preflight) add(level Level, subject, detail, mend string) {
	p.findings = append(p.findings, Finding{level, subject, detail, mend})
}

// Preflight looks at everything on this node that would stop or weaken it, and changes nothing, but that
// the kernel may load a module when it is asked whether it has it. It is done at once, or, where a
// kube-proxy is slow to answer, after ten seconds at most, or when ctx ends.
func (n *Node) Preflight(ctx context.Context) []Finding {
	p := &preflight{proc: "/proc", proxyMode: "http://127.0.0.1:10249/proxyMode", patience: 10 * time.Second}
	// net/http dials on a goroutine of its own, which may be on a thread of another namespace.
	p.dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = n.in(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	p.addresses, _ = n.Addresses() // for a text only
	err := n.in(func() error {
		p.kernel()
		p.capabilities()
		p.modules()
		p.nftables()
		p.others(ctx)
		return nil
	})
	if err != nil {
		p.add(Fail, "network namespace", err.Error(), "run it as root")
		return p.findings
	}
	p.sysctls(n)
	p.forwarding6(n)
	p.device(n)
	return p.findings
}

func (p *preflight) kernel() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		p.add(Warn, "kernel", err.Error(), "")
		return
	}
	release := unix.ByteSliceToString(u.Release[:])
	switch major, minor := kernelVersion(release); {
	case major < 5 || major == 5 && minor < 9:
		p.add(Fail, "kernel", release, "use Linux 5.9 or later: before, a client that reused its source port waited a second for each connection")
	case major < 6 || major == 6 && minor < 1:
		p.add(Warn, "kernel", release+" is older than what is tested", "use Linux 6.1 or later")
	default:
		p.add(OK, "kernel", release, "")
	}
}

// kernelVersion are the first two numbers of a release such as 6.1.0-50-amd64.
func kernelVersion(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	major, _ = strconv.Atoi(parts[0])
	if len(parts) > 1 {
		digits := strings.IndexFunc(parts[1]+".", func(r rune) bool { return r < '0' || r > '9' })
		minor, _ = strconv.Atoi(parts[1][:digits])
	}
	return major, minor
}

func (p *preflight) capabilities() {
	status, err := os.ReadFile(filepath.Join(p.proc, "thread-self/status"))
	if err != nil {
		p.add(Warn, "capabilities", err.Error(), "")
		return
	}
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		bits, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if bits&(1<<unix.CAP_NET_ADMIN) == 0 {
			p.add(Fail, "capabilities", "CAP_NET_ADMIN is missing", "run as root, or give the container NET_ADMIN")
		} else {
			p.add(OK, "capabilities", "CAP_NET_ADMIN", "")
		}
	}
}

func (p *preflight) modules() {
	for _, name := range Modules {
		if err := EnsureModules(name); err != nil {
			p.add(Fail, "module "+name, err.Error(), "modprobe "+name)
		} else {
			p.add(OK, "module "+name, "there", "")
		}
	}
}

// nftables asks for its generation, the cheapest of its questions.
func (p *preflight) nftables() {
	err := func() error {
		c, err := nl.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Execute(nl.Message{
			Header: nl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: nl.Request},
			Data:   make([]byte, 4),
		})
		return err
	}()
	switch {
	case err == nil:
		p.add(OK, "nftables", "there", "")
	case errors.Is(err, os.ErrPermission):
		p.add(Fail, "nftables", "not allowed: "+err.Error(), "run as root, or give the container NET_ADMIN")
	default:
		p.add(Fail, "nftables", err.Error(), "modprobe nf_tables; without it nothing is masqueraded, and a switch is a batch of writes, not one transaction")
	}
}

// others are programs that write to IPVS too.
func (p *preflight) others(ctx context.Context) {
	mode, late := p.kubeProxyMode(ctx)
	_, err := net.InterfaceByName(kubeProxyDevice)
	ipvsDevice := err == nil
	exclude := fmt.Sprintf("add %s and the ClusterIP and external addresses of each Service of pointsman's to kube-proxy's ipvs.excludeCIDRs (flag --ipvs-exclude-cidrs), and restart it", p.own())
	switch {
	case mode == "ipvs":
		p.add(Warn, "kube-proxy", "in ipvs mode: at every sync it deletes address-keyed virtual servers that it did not make, unless their address is excluded", exclude+"; or leave it: steering Auto goes over to marks at the first deletion, steering Mark begins so")
	case mode == "nftables":
		p.add(Warn, "kube-proxy", "in nftables mode: it flushes all of IPVS once at each of its starts; that is repaired at once, but connections through it are cut", "start it before pointsman, and restart it when that does least harm")
	case mode != "":
		p.add(OK, "kube-proxy", "in "+mode+" mode: leaves IPVS alone", "")
	case ipvsDevice:
		p.add(Warn, "kube-proxy", "does not tell its mode, but there is a device kube-ipvs0: it runs in ipvs mode, or did", exclude+"; or, when it no longer runs so, `kube-proxy --cleanup` while pointsman is stopped")
	case late:
		p.add(Warn, "kube-proxy", fmt.Sprintf("what listens at %s did not say within %v which mode it is in", p.proxyMode, p.patience), "run preflight again; its log says the mode, too")
	default:
		p.add(OK, "kube-proxy", "none in ipvs mode seen", "")
	}
	for _, known := range []struct{ comm, detail, mend string }{
		{"kube-router", "runs here: as a service proxy it deletes virtual servers that it did not make, and sets conn_reuse_mode to 0", "start it with --run-service-proxy=false"},
		{"keepalived", "runs here: it edits IPVS when it has virtual_server sections", "keep its virtual servers' addresses and ports apart from pointsman's"},
		{"ldirectord", "runs here: it edits IPVS", "keep its virtual servers' addresses and ports apart from pointsman's"},
	} {
		if p.running(known.comm) {
			p.add(Warn, known.comm, known.detail, known.mend)
		}
	}
}

// own is the node's addresses as a list of networks.
func (p *preflight) own() string {
	if len(p.addresses) == 0 {
		return "the node's addresses"
	}
	var all []string
	for _, a := range p.addresses {
		all = append(all, whole(a).String())
	}
	return strings.Join(all, ",")
}

// kubeProxyMode asks kube-proxy's metrics server; "" when none answers, which is late when there is one that may yet.
func (p *preflight) kubeProxyMode(ctx context.Context) (mode string, late bool) {
	ctx, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.proxyMode, nil)
	if err != nil {
		return "", false
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.dial}}
	response, err := client.Do(request)
	if err != nil {
		return "", errors.Is(err, context.DeadlineExceeded)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64))
	mode = strings.TrimSpace(string(body))
	if err != nil || response.StatusCode != http.StatusOK || strings.ContainsAny(mode, " <{\n") {
		return "", errors.Is(err, context.DeadlineExceeded)
	}
	return mode, false
}

// running is whether a process of that name is there; /proc/PID/comm has its first 15 bytes.
func (p *preflight) running(comm string) bool {
	names, _ := filepath.Glob(filepath.Join(p.proc, "[0-9]*", "comm"))
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == comm {
			return true
		}
	}
	return false
}

func (p *preflight) sysctls(n *Node) {
	diffs, err := n.CheckSysctls(Sysctls(false))
	if err != nil {
		p.add(Fail, "sysctls", err.Error(), "run it as root")
		return
	}
	for _, d := range diffs {
		subject := "sysctl " + d.Key
		switch {
		case d.Missing:
			p.add(Fail, subject, "missing: is ip_vs loaded?", "modprobe ip_vs")
		default:
			p.add(Warn, subject, fmt.Sprintf("is %s, not %s (%s); `pointsman run` sets it", d.Have, d.Want, d.Why), d.String())
		}
	}
	if len(diffs) == 0 {
		p.add(OK, "sysctls", "as they should be", "")
	}
}

// forwarding6 warns of interfaces that would lose their default route with IPv6 forwarding.
func (p *preflight) forwarding6(n *Node) {
	if !n.HasIPv6() {
		return
	}
	_ = n.in(func() error {
		read := func(path string) string {
			text, _ := os.ReadFile(path)
			return strings.TrimSpace(string(text))
		}
		routes, _ := os.ReadFile(filepath.Join(p.proc, "thread-self/net/ipv6_route"))
		for line := range strings.Lines(string(routes)) {
			// destination, its length, source, its length, gateway, metric, references, use, flags, device
			f := strings.Fields(line)
			if len(f) != 10 || f[1] != "00" {
				continue
			}
			flags, _ := strconv.ParseUint(f[8], 16, 32)
			const rtfAddrconf = 0x40000 // RTF_ADDRCONF of linux/ipv6_route.h: from a router advertisement
			conf := "/proc/sys/net/ipv6/conf/" + f[9]
			if flags&rtfAddrconf != 0 && read(conf+"/accept_ra") == "1" && read(conf+"/forwarding") == "0" {
				p.add(Warn, "IPv6 forwarding", fmt.Sprintf("%s has its default route from router advertisements, which it takes no more once forwarding is on", f[9]),
					"before serving IPv6: sysctl -w net.ipv6.conf."+f[9]+".accept_ra=2")
			}
		}
		return nil
	})
}

func (p *preflight) device(n *Node) {
	if _, err := n.ReadDevice(); err != nil {
		p.add(Fail, "device "+DeviceName, err.Error(), "ip link delete "+DeviceName)
	}
}
