// Bench measures, inside one guest, what it costs to fill and to hold a large IPVS table: 20,000
// real servers over 1,000 virtual servers. Absolute times are those of an emulated machine and vary;
// what counts is the ratios, taken in one run. scripts/bench runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	moby "github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/pointsman/pointsman/ipvs"
)

const (
	services = 1000
	perEach  = 20
	rounds   = 3
)

func main() {
	binary := flag.String("pointsman", "bin/pointsman", "the program to measure")
	flag.Parse()
	if err := run(*binary); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(binary string) error {
	fmt.Printf("from empty to %d real servers over %d virtual servers, kernel %s\n\n", services*perEach, services, kernel())
	var loop, batch []time.Duration
	for range rounds {
		took, err := fillByLoop()
		if err != nil {
			return fmt.Errorf("moby/ipvs, one call after another: %w", err)
		}
		loop = append(loop, took)
		if took, err = fillByBatch(); err != nil {
			return fmt.Errorf("batched writer: %w", err)
		}
		batch = append(batch, took)
	}
	l, b := median(loop), median(batch)
	row("moby/ipvs, one call after another", l, "")
	row("the daemon's batched writer", b, fmt.Sprintf("%.1f times faster", float64(l)/float64(b)))
	return daemon(binary)
}

func row(what string, d time.Duration, note string) {
	fmt.Printf("%-40s %10s  %s\n", what, d.Round(100*time.Microsecond), note)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(text))
}

// fresh puts this thread into a new network namespace that has one interface with one address, so that
// a node port is one virtual server. Each measurement takes its own: IPVS remembers deleted real
// servers for two minutes and looks each new one up among them, one by one.
func fresh() error {
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	_ = ns.Close() // the thread holds it
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("making an interface: %w", err)
	}
	addr, err := netlink.ParseAddr("192.0.2.10/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("adding an address: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting the interface up: %w", err)
	}
	return nil
}

func virtual(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), uint16(30000+i))
}

func backend(i, j int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), byte(j + 1)})
}

func fillByLoop() (time.Duration, error) {
	if err := fresh(); err != nil {
		return 0, err
	}
	h, err := moby.New("")
	if err != nil {
		return 0, err
	}
	defer h.Close()
	runtime.GC() // of what came before: each pays for its own
	started := time.Now()
	for i := range services {
		s := &moby.Service{
			Address: net.IP(virtual(i).Addr().AsSlice()), Port: virtual(i).Port(), Protocol: syscall.IPPROTO_TCP,
			AddressFamily: syscall.AF_INET, SchedName: moby.RoundRobin, Netmask: 0xffffffff,
		}
		if err := h.NewService(s); err != nil {
			return 0, err
		}
		for j := range perEach {
			d := &moby.Destination{
				Address: net.IP(backend(i, j).AsSlice()), Port: 80, Weight: 1,
				AddressFamily: syscall.AF_INET, ConnectionFlags: moby.ConnectionFlagMasq,
			}
			if err := h.NewDestination(s, d); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(started), nil
}

func fillByBatch() (time.Duration, error) {
	if err := fresh(); err != nil {
		return 0, err
	}
	c, err := ipvs.Open()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ops := make([]ipvs.Op, 0, services*(perEach+1))
	for i := range services {
		s := ipvs.Service{
			Key:       ipvs.Key{Protocol: ipvs.TCP, Addr: virtual(i).Addr(), Port: virtual(i).Port()},
			Scheduler: "rr", Netmask: 0xffffffff,
		}
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: s})
		for j := range perEach {
			r := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: backend(i, j), Port: 80}, Weight: 1}
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: s, Real: r})
		}
	}
	runtime.GC()
	started := time.Now()
	err = c.Apply(context.Background(), ops)
	return time.Since(started), err
}

// daemon measures the whole program over manifests of the same table.
func daemon(binary string) error {
	if err := fresh(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	manifests, state := filepath.Join(dir, "manifests"), filepath.Join(dir, "state")
	if err := os.Mkdir(manifests, 0o755); err != nil {
		return err
	}
	for i := range services {
		if err := os.WriteFile(filepath.Join(manifests, fmt.Sprintf("app-%04d.yaml", i)), []byte(manifest(i, perEach)), 0o644); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "run", "--manifests", manifests, "--state-dir", state, "--node-name", "bench")
	cmd.Stdout, cmd.Stderr = log, log
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	fmt.Println()
	if err := await(services*perEach, 5*time.Minute); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w; the daemon said:\n%s", err, text)
	}
	row("the daemon, from its start", time.Since(started), "manifests read, table full")

	const idle = 60 * time.Second
	time.Sleep(5 * time.Second)
	before := cpu(cmd.Process.Pid)
	time.Sleep(idle)
	row("the daemon's CPU time at rest", cpu(cmd.Process.Pid)-before, "in "+idle.String())

	// One endpoint among 20,000.
	var changes []time.Duration
	for n := range 11 {
		want := services*perEach + 1 - n%2
		path := filepath.Join(manifests, "app-0500.yaml")
		started := time.Now()
		if err := replace(path, manifest(500, perEach+1-n%2)); err != nil {
			return err
		}
		if err := awaitReals(500, want-services*perEach+perEach, time.Minute); err != nil {
			return err
		}
		changes = append(changes, time.Since(started))
	}
	row("one endpoint changed, to the kernel", median(changes), "median of 11, from the file's rename")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		return err
	}
	names := map[string]string{"VmHWM": "at its highest", "VmRSS": "resident", "RssFile": "of it the program's file"}
	for _, line := range strings.Split(string(status), "\n") {
		if key, value, _ := strings.Cut(line, ":"); names[key] != "" {
			fmt.Printf("%-40s %10s\n", "the daemon's memory, "+names[key], strings.TrimSpace(value))
		}
	}
	return nil
}

func replace(path, text string) error {
	if err := os.WriteFile(path+".tmp", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// await waits until the table has n real servers that get connections.
func await(n int, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
		if err != nil {
			return err
		}
		have := strings.Count(string(text), "\n  -> ") - 1 // the header has one
		if have == n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the table has %d real servers after %s, want %d", have, timeout, n)
		}
	}
}

// awaitReals waits until one virtual server has n real servers with weight.
func awaitReals(service, n int, timeout time.Duration) error {
	c, err := ipvs.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: virtual(service).Addr(), Port: virtual(service).Port()}
	for deadline := time.Now().Add(timeout); ; time.Sleep(2 * time.Millisecond) {
		reals, err := c.RealServers(context.Background(), key)
		if err != nil {
			return err
		}
		have := 0
		for _, r := range reals {
			if r.Weight > 0 {
				have++
			}
		}
		if have == n {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the change did not reach the kernel")
		}
	}
}

// cpu is the processor time that a process has used (proc(5), stat fields 14 and 15, in ticks of 10 ms).
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func manifest(i, endpoints int) string {
	var b strings.Builder
	name := fmt.Sprintf("app-%04d", i)
	fmt.Fprintf(&b, `apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: %[1]s}
spec: {service: {name: %[1]s}, active: v1}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {type: NodePort, ports: [{port: 80, nodePort: %[2]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-v1, labels: {kubernetes.io/service-name: %[1]s, version: v1}}
addressType: IPv4
ports: [{port: 80}]
endpoints:
`, name, virtual(i).Port())
	for j := range endpoints {
		fmt.Fprintf(&b, "- {addresses: [%s], conditions: {ready: true}}\n", backend(i, j))
	}
	return b.String()
}
