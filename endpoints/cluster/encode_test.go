package cluster

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/endpoints"
)

// Every field is drawn, by reflection where it is one of the parts whose text is made by hand, so that one
// which is added later is missed here.
func TestEncodeIsMarshal(t *testing.T) {
	addrs := rapid.Custom(func(t *rapid.T) netip.Addr {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "four")))
		case 1:
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sixteen")))
		case 2:
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "zoned"))).WithZone("eth0")
		}
		return netip.Addr{}
	})
	port := rapid.MakeCustom[endpoints.Port](rapid.MakeConfig{Types: map[reflect.Type]*rapid.Generator[any]{reflect.TypeFor[netip.Addr](): addrs.AsAny()}})
	rapid.Check(t, func(t *rapid.T) {
		var servers []endpoints.Server
		for range rapid.IntRange(0, 3).Draw(t, "servers") {
			s := endpoints.Server{
				Key:    types.NamespacedName{Namespace: rapid.String().Draw(t, "namespace"), Name: rapid.String().Draw(t, "name")},
				Digest: rapid.String().Draw(t, "digest"), Affinity: rapid.Uint32().Draw(t, "affinity"),
				Ports: rapid.SliceOfN(port, 0, 3).Draw(t, "ports"),
			}
			if rapid.Bool().Draw(t, "refused") {
				s.Refused, s.Coming = &endpoints.Refusal{Reason: "NoReason"}, s.Ports
				s.Ports = nil
			}
			servers = append(servers, s)
		}
		want, err := json.Marshal(append([]endpoints.Server{}, servers...))
		require.NoError(t, err)
		have, err := encode(servers)
		require.NoError(t, err)
		require.Equal(t, string(want), string(have))
	})
}

func BenchmarkEncode(b *testing.B) {
	servers := make([]endpoints.Server, 1000)
	for i := range servers {
		servers[i].Ports = []endpoints.Port{{Name: "http", Protocol: corev1.ProtocolTCP, Ways: []endpoints.Way{{Kind: endpoints.ClusterIP, Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80}}}}
		for j := range 20 {
			servers[i].Ports[0].Endpoints = append(servers[i].Ports[0].Endpoints, endpoints.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), byte(j)}), Port: 80, Colour: "v1", Node: "node01", Ready: true, Serving: true,
			})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		_, err := encode(servers)
		require.NoError(b, err)
	}
}
