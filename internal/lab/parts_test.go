package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestParseTable(t *testing.T) {
	table, err := parseTable(`IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C000020A:7580 rr  
  -> 0AF48C4D:0050      Masq    0      2          13        
  -> 0AF48C4C:0050      Masq    1      0          0         
UDP  [2001:0db8:0002:0000:0000:0000:0000:000a]:7580 wlc persistent 300 FFFFFFFFFFFFFFFF ops
  -> [fd00:0010:0244:0140:0000:0000:0000:004c]:0050      Route   1      0          0         
FWM  00000064 mh (mh-fallback,mh-port)
  -> 0AF48C4E:0050      Tunnel  1      0          0         
`, 16)
	require.NoError(t, err)
	require.Len(t, table, 3)
	v, ok := table.Find("TCP", netip.MustParseAddrPort("192.0.2.10:30080"))
	require.True(t, ok)
	require.Equal(t, "rr", v.Scheduler)
	require.Equal(t, RealServer{netip.MustParseAddrPort("10.244.140.77:80"), "Masq", 0, 2, 13}, v.Real[0])
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.244.140.76:80")}, v.Serving())
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.244.140.77:80")}, v.Draining())
	v, ok = table.Find("UDP", netip.MustParseAddrPort("[2001:db8:2::a]:30080"))
	require.True(t, ok)
	require.Equal(t, "persistent 300 FFFFFFFFFFFFFFFF ops", v.Flags)
	require.Equal(t, "[fd00:10:244:140::4c]:80", v.Real[0].Addr.String())
	require.Equal(t, uint32(0x64), table[2].Mark)
	_, ok = table.Find("TCP", netip.MustParseAddrPort("192.0.2.10:80"))
	require.False(t, ok)

	_, err = parseTable("\n\n\nTCP  C000020A rr\n", 16)
	require.ErrorContains(t, err, "line 4")

	printed, err := parseTable(`IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:30080 rr
  -> 10.244.140.76:80             Masq    1      0          0         
UDP  [2001:db8:2::a]:53 wlc persistent 300
FWM  100 mh
`, 10)
	require.NoError(t, err)
	v, ok = printed.Find("TCP", netip.MustParseAddrPort("192.0.2.10:30080"))
	require.True(t, ok)
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.244.140.76:80")}, v.Serving())
	_, ok = printed.Find("UDP", netip.MustParseAddrPort("[2001:db8:2::a]:53"))
	require.True(t, ok)
	require.Equal(t, uint32(100), printed[2].Mark)
}

// Namespaces that all have virtual servers, whose lines together are many reads of the file.
func TestKernelPrintedTable(t *testing.T) {
	kerneltest.Require(t)
	l := Bare()
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	var all []*Namespace
	for i := range 3 {
		n, err := l.Add(fmt.Sprintf("table%d", i))
		require.NoError(t, err)
		all = append(all, n)
	}
	const servers = 60
	for _, n := range all {
		var commands strings.Builder
		for port := range servers {
			fmt.Fprintf(&commands, "-A -t 192.0.2.1:%d -s rr\n-a -t 192.0.2.1:%[1]d -r 10.0.0.1:80 -m\n", 1000+port)
		}
		_, err := n.Feed(commands.String(), "ipvsadm", "-R")
		require.NoError(t, err)
	}
	for _, n := range all {
		table, err := n.PrintedTable()
		require.NoError(t, err)
		require.Len(t, table, servers, "in %s", n.Name())
		for _, v := range table {
			require.Len(t, v.Real, 1)
		}
		read, err := n.Table()
		require.NoError(t, err)
		require.ElementsMatch(t, table, read)
	}
}

func TestNth(t *testing.T) {
	for _, c := range []struct {
		network string
		n       int
		want    string
	}{
		{"10.244.140.0/24", 76, "10.244.140.76/24"},
		{"10.244.0.0/16", 300, "10.244.1.44/16"},
		{"fd00:10::/64", 65536, "fd00:10::1:0/64"},
	} {
		got, err := nth(netip.MustParsePrefix(c.network), c.n)
		require.NoError(t, err)
		require.Equal(t, c.want, got.String())
	}
	_, err := nth(netip.MustParsePrefix("10.244.140.0/24"), 256)
	require.Error(t, err)
	require.Equal(t, "fd00:10:244:140::/80", sister(netip.MustParsePrefix("10.244.140.0/24")).String())
}

// The manifests are what Kubernetes takes for these kinds, with no field that it does not know.
func TestManifests(t *testing.T) {
	m := Manifests{Dir: t.TempDir(), ClusterIP: netip.MustParseAddr("10.96.0.7"), Affinity: true,
		Switch: "{drain: {timeout: 1m}}"}
	require.NoError(t, m.WriteService())
	require.NoError(t, m.WriteSlice("v1", Endpoint{netip.MustParseAddr("10.244.140.76"), true}, Endpoint{netip.MustParseAddr("10.244.140.77"), false}))
	require.NoError(t, m.WriteSlice("v2"))
	require.NoError(t, m.WriteVirtualServer("v1"))
	files, err := filepath.Glob(filepath.Join(m.Dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{m.SliceFile("v1"), m.SliceFile("v2"), m.ServiceFile(), m.VirtualServerFile()}, files)

	read := func(file string, into any) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.UnmarshalStrict(text, into), string(text))
	}
	var service corev1.Service
	read(m.ServiceFile(), &service)
	require.Equal(t, "pointsman", service.Labels["service.kubernetes.io/service-proxy-name"])
	require.Equal(t, int32(30080), service.Spec.Ports[0].NodePort)
	require.Equal(t, "10.96.0.7", service.Spec.ClusterIP)
	require.Equal(t, corev1.ServiceAffinityClientIP, service.Spec.SessionAffinity)
	var slice discoveryv1.EndpointSlice
	read(m.SliceFile("v1"), &slice)
	require.Equal(t, map[string]string{"kubernetes.io/service-name": "myapp", "version": "v1"}, slice.Labels)
	require.Len(t, slice.Endpoints, 2)
	require.True(t, *slice.Endpoints[0].Conditions.Ready)
	require.False(t, *slice.Endpoints[1].Conditions.Ready)
	read(m.SliceFile("v2"), &slice)
	var vs struct {
		APIVersion, Kind string
		Metadata         map[string]string
		Spec             struct {
			Service             map[string]string
			ColourLabel, Active string
			Switch              map[string]any
		}
	}
	read(m.VirtualServerFile(), &vs)
	require.Equal(t, "v1", vs.Spec.Active)
	require.Contains(t, vs.Spec.Switch, "drain")
}

// The rate is a bound, and a load that falls behind does not make up for it.
func TestPace(t *testing.T) {
	r := &Run{load: Load{Rate: 1000}, next: time.Now().Add(-time.Hour)}
	began := time.Now()
	for range 50 {
		_, ok := r.pace(t.Context())
		require.True(t, ok)
	}
	require.GreaterOrEqual(t, time.Since(began), 49*time.Millisecond)
}
