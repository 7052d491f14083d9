package ipvs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
)

// table is what Conn and Fake have in common.
type table interface {
	Read(context.Context) ([]ipvs.ServiceInfo, error)
	Services(context.Context) ([]ipvs.ServiceInfo, error)
	RealServers(context.Context, ipvs.Key) ([]ipvs.RealInfo, error)
	Apply(context.Context, []ipvs.Op) error
	Info(context.Context) (ipvs.Info, error)
	Timeouts(context.Context) (ipvs.Timeouts, error)
	Daemons(context.Context) ([]ipvs.Daemon, error)
	Close() error
}

var (
	_ table = (*ipvs.Conn)(nil)
	_ table = (*ipvs.Fake)(nil)
)

// key reads what Key.String writes.
func key(text string) ipvs.Key {
	kind, rest, _ := strings.Cut(text, " ")
	if kind == "FWM" {
		var k ipvs.Key
		k.Addr = netip.IPv4Unspecified()
		if strings.HasSuffix(rest, "IPv6") {
			k.Addr = netip.IPv6Unspecified()
		}
		if _, err := fmt.Sscan(rest, &k.Mark); err != nil {
			panic(err)
		}
		return k
	}
	at := netip.MustParseAddrPort(rest)
	return ipvs.Key{
		Protocol: map[string]ipvs.Protocol{"TCP": ipvs.TCP, "UDP": ipvs.UDP, "SCTP": ipvs.SCTP}[kind],
		Addr:     at.Addr(), Port: at.Port(),
	}
}

func service(k, scheduler string) ipvs.Service {
	s := ipvs.Service{Key: key(k), Scheduler: scheduler, Netmask: math.MaxUint32}
	if s.Addr.Is6() {
		s.Netmask = 128
	}
	return s
}

func realKey(at string) ipvs.RealKey {
	a := netip.MustParseAddrPort(at)
	return ipvs.RealKey{Addr: a.Addr(), Port: a.Port()}
}

func masquerade(at string, weight uint32) ipvs.RealServer {
	return ipvs.RealServer{RealKey: realKey(at), Weight: weight}
}

func addService(k, scheduler string) ipvs.Op {
	return ipvs.Op{Verb: ipvs.AddService, Service: service(k, scheduler)}
}

func addReal(k, at string, weight uint32) ipvs.Op {
	return ipvs.Op{Verb: ipvs.AddReal, Service: ipvs.Service{Key: key(k)}, Real: masquerade(at, weight)}
}

// clear deletes all virtual servers.
func clearTable(t require.TestingT, c table) {
	list, err := c.Services(context.Background())
	require.NoError(t, err)
	var ops []ipvs.Op
	for _, s := range list {
		ops = append(ops, ipvs.Op{Verb: ipvs.DelService, Service: s.Service})
	}
	require.NoError(t, c.Apply(context.Background(), ops))
}

// settings is the table without counters, as op-like lines sorted by virtual server; the order of the
// real servers is the table's.
func settings(t require.TestingT, c table) []string {
	list, err := c.Read(context.Background())
	require.NoError(t, err)
	var groups []string
	for _, s := range list {
		lines := []string{every(t, s.Service)}
		for _, r := range s.Reals {
			lines = append(lines, "  "+every(t, r.RealServer))
		}
		groups = append(groups, strings.Join(lines, "\n"))
	}
	slices.Sort(groups)
	return groups
}

// modules loads what an op may name; see the package comment for why not to leave it to the kernel.
var modules = sync.OnceValue(func() error {
	list := []string{"-a"}
	for _, scheduler := range gen.Schedulers {
		list = append(list, "ip_vs_"+scheduler)
	}
	out, err := exec.Command("modprobe", append(list, "ip_vs_pe_sip")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// every writes every field; %+v would call String, which leaves some out.
func every(t require.TestingT, v any) string {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func open(t testing.TB) *ipvs.Conn {
	t.Helper()
	require.NoError(t, modules())
	c, err := ipvs.Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}
