package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// foreignServers are virtual servers of somebody else, with whatever flags there are. The first is
// on pointsman's own address.
const foreignServers = `-A -t 192.0.2.10:8080 -s sh -b sh-fallback,sh-port -p 600 -M 255.255.255.0
-a -t 192.0.2.10:8080 -r 10.244.140.200:8081 -m -w 3
-a -t 192.0.2.10:8080 -r 10.244.140.201:8081 -m -w 0
-A -u 192.0.2.99:53 -s mh -b mh-port -o
-a -u 192.0.2.99:53 -r 10.244.196.200:53 -g -w 65535
-A -f 31337 -s wlc -p 90
-a -f 31337 -r 10.244.196.201:0 -i -w 1
-A -t 192.0.2.98:80 -s dh
`

const foreignRules = `table inet somebody {
	set blocked {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.0/24 }
	}

	chain in {
		comment "not pointsman's"
		type filter hook input priority filter + 90; policy accept;
		ip saddr @blocked counter drop
		meta mark & 0x00000f00 == 0x00000f00 accept
	}

	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 203.0.113.7 masquerade random
	}
}
table ip pointsman-not {
	map marks {
		type inet_service : mark
		elements = { 30080 : 0x00000001 }
	}
}
`

// What pointsman did not make stays byte for byte: through start, switch, repair, restart, crash and
// cleanup. And cleanup leaves nothing else.
func TestKernelForeignStays(t *testing.T) {
	w := newWorld(t, lab.Config{Colours: []lab.Colour{{Name: "v1", Backends: 2}, {Name: "v2", Backends: 2}}}, lab.Manifests{Steering: "Address"})
	_, err := w.Node().Feed(foreignServers, "ipvsadm", "-R")
	require.NoError(t, err)
	_, err = w.Node().Feed(foreignRules, "nft", "-f", "-")
	require.NoError(t, err)
	for _, args := range [][]string{
		{"link", "add", "kube-ipvs0", "type", "dummy"},
		{"addr", "add", "10.96.0.1/32", "dev", "kube-ipvs0"},
	} {
		_, err = w.Node().Run("ip", args...)
		require.NoError(t, err)
	}
	table, rules, addrs, sysctls := w.table(), w.ruleset(), w.addrs(), w.sysctls(t)
	same := func(when string) {
		t.Helper()
		now := w.table()
		for line := range strings.Lines(table) {
			require.Contains(t, now, strings.TrimSpace(line), when)
		}
		for _, name := range []string{"inet somebody", "ip pointsman-not"} {
			text, err := w.Node().Run("nft", append([]string{"list", "table"}, strings.Fields(name)...)...)
			require.NoError(t, err, when)
			require.Contains(t, rules, text, when)
		}
		for line := range strings.Lines(addrs) {
			require.Contains(t, w.addrs(), line, when)
		}
	}
	same("before all")
	w.start("v1")
	same("started")
	w.switchTo("v2")
	same("switched")
	_, err = w.Node().Run("ipvsadm", "-D", "-t", w.vip.String())
	require.NoError(t, err)
	w.eventually(patience, "repaired", func() error { return w.serves("v2") })
	same("repaired")
	w.daemon.Kill()
	w.start("v2")
	same("killed and restarted")
	require.NoError(t, w.daemon.Terminate(patience))
	same("stopped")
	r, err := w.Exec("cleanup", "--state-dir", w.State)
	require.NoError(t, err)
	require.Zero(t, r.Status, "%v", r)
	require.Equal(t, table, w.table(), "cleaned up")
	require.Equal(t, rules, w.ruleset(), "cleaned up")
	require.Equal(t, addrs, w.addrs(), "cleaned up")
	require.Equal(t, sysctls, w.sysctls(t), "cleaned up")
}

// addrs are the node's devices and addresses, one a line.
func (w *world) addrs() string {
	w.t.Helper()
	text, err := w.Node().Run("ip", "-br", "addr")
	require.NoError(w.t, err)
	return text
}
