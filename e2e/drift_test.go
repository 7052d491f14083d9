package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// second is the second within which things are put right. Under software emulation everything takes
// tens of times as long, and another guest may be running on the same two cores.
var second = func() time.Duration {
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Contains(string(cpu), "QEMU TCG") {
		return 10 * time.Second
	}
	return time.Second
}()

// What others do to the kernel behind pointsman's back is put right within a second.
func TestKernelDrift(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 4}, {Name: "v2", Backends: 4}}},
		lab.Manifests{ClusterIP: netip.MustParseAddr("10.96.0.10")})
	w.start("v1")
	w.eventually(patience, "verified", func() error { return w.verified("v1") })
	table, rules, device, watch := w.tableWithThresholds(), w.ruleset(), w.device(), watchWrites(t)
	first := w.Colour("v1")[0].Addr.String()
	for _, c := range []struct {
		name string
		harm []string
	}{
		{"the table is cleared", []string{"ipvsadm", "-C"}},
		{"a real server is deleted", []string{"ipvsadm", "-d", "-t", w.vip.String(), "-r", first}},
		{"a weight is changed", []string{"ipvsadm", "-e", "-t", w.vip.String(), "-r", first, "-m", "-w", "7"}},
		{"a weight is set to 0", []string{"ipvsadm", "-e", "-t", w.vip.String(), "-r", first, "-m", "-w", "0"}},
		{"the other colour is added", []string{"ipvsadm", "-a", "-t", w.vip.String(), "-r", w.Colour("v2")[0].Addr.String(), "-m"}},
		{"a threshold is set", []string{"ipvsadm", "-e", "-t", w.vip.String(), "-r", first, "-m", "-x", "5", "-y", "2"}},
		{"the scheduler is changed", []string{"ipvsadm", "-E", "-t", w.vip.String(), "-s", "wlc"}},
		{"a virtual server is deleted", []string{"ipvsadm", "-D", "-t", w.vip.String()}},
		{"the rules are flushed", []string{"nft", "flush", "ruleset"}},
		{"an address is removed", []string{"ip", "addr", "del", "10.96.0.10/32", "dev", "pointsman0"}},
		{"the device is set down", []string{"ip", "link", "set", "pointsman0", "down"}},
		{"the device is deleted", []string{"ip", "link", "del", "pointsman0"}},
		{"forwarding is turned off", []string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}},
		{"port reuse is turned off", []string{"sysctl", "-qw", "net.ipv4.vs.conn_reuse_mode=0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			sysctls := w.sysctls(t)
			writes := len(watch.lines())
			_, err := w.Node().Run(c.harm[0], c.harm[1:]...)
			require.NoError(t, err)
			took := w.eventually(second, c.name+": repaired", func() error {
				if now := w.tableWithThresholds(); now != table {
					return fmt.Errorf("the table is\n%s\nand was\n%s", now, table)
				}
				if now := w.ruleset(); now != rules {
					return fmt.Errorf("the rules are\n%s\nand were\n%s", now, rules)
				}
				if now := w.device(); now != device {
					return fmt.Errorf("the device is\n%s\nand was\n%s", now, device)
				}
				if now := w.sysctls(t); now != sysctls {
					return fmt.Errorf("sysctls are %s and were %s", now, sysctls)
				}
				return nil
			})
			require.Greater(t, len(watch.lines()), writes, "it was pointsman that repaired it")
			t.Logf("repaired after %v", took.Round(time.Millisecond))
		})
	}
	run := w.Start(lab.Load{From: w.Client, Target: w.vip})
	require.NoError(t, run.Await(20, patience))
	report := run.Stop()
	healthy(t, report)
	require.Len(t, report.ByColour(), 1)
}

// tableWithThresholds is the table with what `ipvsadm -S` leaves out.
func (w *world) tableWithThresholds() string {
	w.t.Helper()
	text, err := w.Node().Run("ipvsadm", "-Ln", "--thresholds")
	require.NoError(w.t, err)
	lines := strings.Split(text, "\n")
	for i := range lines { // real servers: connections that are remembered are no drift
		if words := strings.Fields(lines[i]); len(words) == 6 && words[0] == "->" {
			lines[i] = strings.Join(words[:4], " ")
		}
	}
	slices.Sort(lines)
	return w.table() + "\n" + strings.Join(lines, "\n")
}

// device is the dummy device and its addresses, "" when there is none.
func (w *world) device() string {
	w.t.Helper()
	text, _ := w.Node().Run("ip", "-br", "addr", "show", "dev", "pointsman0")
	return text
}

// sysctls are those that pointsman answers for.
func (w *world) sysctls(t *testing.T) string {
	t.Helper()
	var all []string
	for _, key := range []string{"ip_forward", "vs/conntrack", "vs/conn_reuse_mode", "vs/expire_nodest_conn", "vs/expire_quiescent_template"} {
		value, err := w.Node().ReadFile("/proc/sys/net/ipv4/" + key)
		require.NoError(t, err)
		all = append(all, key+"="+strings.TrimSpace(value))
	}
	return strings.Join(all, " ")
}

// verified says whether the daemon has written that it read the colour back from the kernel.
func (w *world) verified(colour string) error {
	s := w.status()
	if !s.Running || !s.Healthy || len(s.Servers) != 1 || !s.Servers[0].Verified || s.Servers[0].Status.Active != colour {
		return fmt.Errorf("the status is %+v", s)
	}
	return nil
}
