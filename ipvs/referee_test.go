package ipvs_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/ipvs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
)

// The referee: what the writer wrote moby/ipvs reads, as far as it can, and the other way round.
func TestKernelReferee(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	referee, err := moby.New("")
	require.NoError(t, err)
	defer referee.Close()
	ctx := context.Background()
	limits := gen.Limits{MaxWeight: 65535}
	rapid.Check(t, func(t *rapid.T) {
		clearTable(t, c)
		require.NoError(t, c.Apply(ctx, gen.Table(t, 5, 5, limits)))
		want, err := c.Read(ctx)
		require.NoError(t, err)
		services, err := referee.GetServices()
		require.NoError(t, err)
		require.Len(t, services, len(want))
		// 7.x may rearrange its hash table at any time, and with it the order.
		sortServices(want)
		slices.SortFunc(services, func(a, b *moby.Service) int {
			return strings.Compare(fromMoby(a).Key.String(), fromMoby(b).Key.String())
		})
		for i, s := range services {
			require.Equal(t, want[i].Service, fromMoby(s))
			if s.Address == nil { // it cannot ask about a mark without an address
				s.Address = net.IP(want[i].Addr.AsSlice())
			}
			reals, err := referee.GetDestinations(s)
			require.NoError(t, err)
			require.Len(t, reals, len(want[i].Reals))
			for j, r := range reals {
				ours := want[i].Reals[j].RealServer
				ours.TunnelType, ours.TunnelPort, ours.TunnelFlags = 0, 0, 0
				require.Equal(t, ours, realFromMoby(r))
			}
		}
		// Written by moby, read by us.
		clearTable(t, c)
		for i, s := range services {
			s.Flags &^= 2
			require.NoError(t, referee.NewService(s))
			for j := len(want[i].Reals) - 1; j >= 0; j-- {
				r := want[i].Reals[j].RealServer
				if r.Addr.Is4() != want[i].Addr.Is4() {
					continue // it cannot say the family
				}
				require.NoError(t, referee.NewDestination(s, &moby.Destination{
					Address: net.IP(r.Addr.AsSlice()), Port: r.Port, Weight: int(r.Weight), ConnectionFlags: uint32(r.Forwarding),
					UpperThreshold: r.Upper, LowerThreshold: r.Lower,
				}))
			}
		}
		got, err := c.Read(ctx)
		require.NoError(t, err)
		require.Len(t, got, len(want))
		sortServices(got)
		for i := range got {
			require.Equal(t, want[i].Service, got[i].Service)
			var reals []ipvs.RealServer
			for _, r := range want[i].Reals {
				if r.Addr.Is4() == want[i].Addr.Is4() {
					r.TunnelType, r.TunnelPort, r.TunnelFlags = 0, 0, 0
					reals = append(reals, r.RealServer)
				}
			}
			require.Len(t, got[i].Reals, len(reals))
			for j, r := range got[i].Reals {
				require.Equal(t, reals[j], r.RealServer)
			}
		}
	})
}

func sortServices(list []ipvs.ServiceInfo) {
	slices.SortFunc(list, func(a, b ipvs.ServiceInfo) int { return strings.Compare(a.Key.String(), b.Key.String()) })
}

func fromMoby(s *moby.Service) ipvs.Service {
	addr, ok := netip.AddrFromSlice(s.Address)
	if !ok {
		addr = netip.IPv4Unspecified()
		if s.AddressFamily == unix.AF_INET6 {
			addr = netip.IPv6Unspecified()
		}
	}
	mask := s.Netmask
	if s.AddressFamily == unix.AF_INET { // it gives it in network order
		mask = mask<<24 | mask>>24 | mask<<8&0xff0000 | mask>>8&0xff00
	}
	return ipvs.Service{
		Key:       ipvs.Key{Mark: s.FWMark, Protocol: ipvs.Protocol(s.Protocol), Addr: addr, Port: s.Port},
		Scheduler: s.SchedName, Flags: ipvs.ServiceFlags(s.Flags &^ 2), Timeout: s.Timeout, Netmask: mask,
	}
}

func realFromMoby(r *moby.Destination) ipvs.RealServer {
	addr, _ := netip.AddrFromSlice(r.Address)
	return ipvs.RealServer{
		RealKey: ipvs.RealKey{Addr: addr, Port: r.Port}, Forwarding: ipvs.Forwarding(r.ConnectionFlags),
		Weight: uint32(r.Weight), Upper: r.UpperThreshold, Lower: r.LowerThreshold,
	}
}

// A service as another program may leave it: values without a meaning must not show as differences.
func TestKernelReadNormalises(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	referee, err := moby.New("")
	require.NoError(t, err)
	defer referee.Close()
	require.NoError(t, referee.NewService(&moby.Service{
		Address: net.ParseIP("192.0.2.1").To4(), Protocol: unix.IPPROTO_TCP, Port: 30080, SchedName: "rr",
		AddressFamily: unix.AF_INET, Timeout: 77, Netmask: 0x00ffffff,
	}))
	list, err := c.Read(context.Background())
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, service(web, "rr"), list[0].Service)
}
