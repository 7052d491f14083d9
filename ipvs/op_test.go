package ipvs_test

import (
	"context"
	"math"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
)

func TestOpString(t *testing.T) {
	affine := service("TCP 192.0.2.1:0", "rr")
	affine.Flags, affine.Timeout, affine.Netmask = ipvs.Persistent, 10800, 0xffffff00
	affine6 := service("FWM 7 IPv6", "mh")
	affine6.Flags, affine6.Timeout, affine6.Netmask = ipvs.Persistent|ipvs.Sched1, 300, 64
	sip := service("UDP [2001:db8::1]:5060", "sh")
	sip.Flags = ipvs.Persistent | ipvs.OnePacket | ipvs.Sched1 | ipvs.Sched2
	sip.Timeout, sip.PersistenceEngine = 60, "sip"
	flagged := service("SCTP 192.0.2.1:80", "wrr")
	flagged.Flags = ipvs.Sched2 | ipvs.Sched3
	gue := ipvs.RealServer{RealKey: realKey("10.0.0.1:0"), Forwarding: ipvs.Tunnel, Weight: 3, Upper: 9, Lower: 8, TunnelType: ipvs.GUE, TunnelPort: 6080}
	gre := ipvs.RealServer{RealKey: realKey("[2001:db8::9]:80"), Forwarding: ipvs.Tunnel, TunnelType: ipvs.GRE, TunnelFlags: 1}
	direct := ipvs.RealServer{RealKey: realKey("10.0.0.1:80"), Forwarding: ipvs.Direct, Weight: 1}
	ipip := ipvs.RealServer{RealKey: realKey("10.0.0.1:80"), Forwarding: ipvs.Tunnel, Weight: 1}
	on := func(k string) ipvs.Service { return ipvs.Service{Key: key(k)} }
	for _, test := range []struct {
		op   ipvs.Op
		want string
	}{
		{addReal(web, "10.244.140.76:80", 1), "ipvsadm -a -t 192.0.2.1:30080 -r 10.244.140.76:80 -m -w 1"},
		{addService(web, "rr"), "ipvsadm -A -t 192.0.2.1:30080 -s rr"},
		{ipvs.Op{Verb: ipvs.EditService, Service: affine}, "ipvsadm -E -t 192.0.2.1:0 -s rr -p 10800 -M 255.255.255.0"},
		{ipvs.Op{Verb: ipvs.AddService, Service: affine6}, "ipvsadm -A -f 7 -6 -s mh -p 300 -M 64 -b mh-fallback"},
		{ipvs.Op{Verb: ipvs.AddService, Service: sip}, "ipvsadm -A -u [2001:db8::1]:5060 -s sh -p 60 --pe sip -o -b sh-fallback,sh-port"},
		{ipvs.Op{Verb: ipvs.AddService, Service: flagged}, "ipvsadm -A --sctp-service 192.0.2.1:80 -s wrr -b flag-2,flag-3"},
		{ipvs.Op{Verb: ipvs.DelService, Service: affine}, "ipvsadm -D -t 192.0.2.1:0"},
		{ipvs.Op{Verb: ipvs.AddReal, Service: on("FWM 7"), Real: gue}, "ipvsadm -a -f 7 -r 10.0.0.1:0 -i --tun-type gue --tun-port 6080 --tun-nocsum -w 3 -x 9 -y 8"},
		{ipvs.Op{Verb: ipvs.EditReal, Service: on(web), Real: gre}, "ipvsadm -e -t 192.0.2.1:30080 -r [2001:db8::9]:80 -i --tun-type gre --tun-csum -w 0"},
		{ipvs.Op{Verb: ipvs.AddReal, Service: on(web), Real: ipip}, "ipvsadm -a -t 192.0.2.1:30080 -r 10.0.0.1:80 -i --tun-type ipip -w 1"},
		{ipvs.Op{Verb: ipvs.AddReal, Service: on(web), Real: direct}, "ipvsadm -a -t 192.0.2.1:30080 -r 10.0.0.1:80 -g -w 1"},
		{ipvs.Op{Verb: ipvs.DelReal, Service: on(web), Real: direct}, "ipvsadm -d -t 192.0.2.1:30080 -r 10.0.0.1:80"},
		{ipvs.Op{Verb: 9}, "ipvsadm Verb(9)"},
	} {
		assert.Equal(t, test.want, test.op.String())
	}
}

func TestKeyString(t *testing.T) {
	for _, text := range []string{web, "UDP [2001:db8::1]:53", "SCTP 10.0.0.1:0", "FWM 7", "FWM 4294967295 IPv6"} {
		assert.Equal(t, text, key(text).String())
	}
}

func TestSettingsString(t *testing.T) {
	assert.Equal(t, "TCP 192.0.2.1:30080 -s rr", service(web, "rr").String())
	assert.Equal(t, "10.244.140.76:80 -m -w 1", masquerade("10.244.140.76:80", 1).String())
}

type invalidOp struct {
	field string
	op    ipvs.Op
}

// invalidOps has one op for each thing that the kernel would not keep as it was asked for.
func invalidOps() []invalidOp {
	var list []invalidOp
	service := func(field string, change func(*ipvs.Service)) {
		for _, verb := range []ipvs.Verb{ipvs.AddService, ipvs.EditService} {
			s := service(web, "rr")
			change(&s)
			list = append(list, invalidOp{field, ipvs.Op{Verb: verb, Service: s}})
		}
	}
	service("Addr", func(s *ipvs.Service) { s.Addr = netip.Addr{} })
	service("Addr", func(s *ipvs.Service) { s.Addr = netip.MustParseAddr("::ffff:192.0.2.1") })
	service("Addr", func(s *ipvs.Service) { s.Addr = netip.MustParseAddr("fe80::1%lo") })
	service("Protocol", func(s *ipvs.Service) { s.Protocol = 1 })
	service("Mark", func(s *ipvs.Service) { s.Mark = 7 })
	service("Scheduler", func(s *ipvs.Service) { s.Scheduler = "" })
	service("Scheduler", func(s *ipvs.Service) { s.Scheduler = "sixteen-letters!" })
	service("Scheduler", func(s *ipvs.Service) { s.Scheduler = "rr\x00x" })
	service("PersistenceEngine", func(s *ipvs.Service) { s.PersistenceEngine = "sixteen-letters!" })
	service("Flags", func(s *ipvs.Service) { s.Flags = 2 })
	service("Timeout", func(s *ipvs.Service) { s.Timeout = 1 })
	service("Timeout", func(s *ipvs.Service) { s.Flags = ipvs.Persistent })
	service("Timeout", func(s *ipvs.Service) { s.Flags, s.Timeout = ipvs.Persistent, 31*86400+1 })
	service("Netmask", func(s *ipvs.Service) { s.Netmask = 0xffffff00 })
	service("Netmask", func(s *ipvs.Service) {
		s.Addr, s.Flags, s.Timeout, s.Netmask = netip.MustParseAddr("2001:db8::1"), ipvs.Persistent, 1, 129
	})
	service("Netmask", func(s *ipvs.Service) { s.Addr = netip.MustParseAddr("2001:db8::1") })
	service("Port", func(s *ipvs.Service) { s.Port = 0 })

	real := func(field string, change func(*ipvs.RealServer)) {
		for _, verb := range []ipvs.Verb{ipvs.AddReal, ipvs.EditReal} {
			r := masquerade("10.0.0.1:80", 1)
			change(&r)
			list = append(list, invalidOp{field, ipvs.Op{Verb: verb, Service: ipvs.Service{Key: key(web)}, Real: r}})
		}
	}
	real("Real.Addr", func(r *ipvs.RealServer) { r.Addr = netip.Addr{} })
	real("Weight", func(r *ipvs.RealServer) { r.Weight = math.MaxInt32 + 1 })
	real("Forwarding", func(r *ipvs.RealServer) { r.Forwarding = ipvs.Local })
	real("Forwarding", func(r *ipvs.RealServer) { r.Forwarding = 0x100 })
	real("TunnelType", func(r *ipvs.RealServer) { r.TunnelType = ipvs.GRE })
	real("Real.Port", func(r *ipvs.RealServer) { r.Forwarding = ipvs.Direct })
	tunnel := func(field string, change func(*ipvs.RealServer)) {
		real(field, func(r *ipvs.RealServer) { r.Forwarding, r.Port = ipvs.Tunnel, 30080; change(r) })
	}
	tunnel("TunnelType", func(r *ipvs.RealServer) { r.TunnelType = 3 })
	tunnel("TunnelPort", func(r *ipvs.RealServer) { r.TunnelPort = 1 })
	tunnel("TunnelPort", func(r *ipvs.RealServer) { r.TunnelType = ipvs.GUE })
	tunnel("TunnelFlags", func(r *ipvs.RealServer) { r.TunnelFlags = 1 })
	tunnel("TunnelFlags", func(r *ipvs.RealServer) { r.TunnelType, r.TunnelFlags = ipvs.GRE, 2 })
	tunnel("TunnelFlags", func(r *ipvs.RealServer) { r.TunnelType, r.TunnelPort, r.TunnelFlags = ipvs.GUE, 1, 3 })

	list = append(list,
		invalidOp{"Real.Addr", ipvs.Op{Verb: ipvs.DelReal, Service: ipvs.Service{Key: key(web)}}},
		invalidOp{"Addr", ipvs.Op{Verb: ipvs.DelService}},
		invalidOp{"Verb", ipvs.Op{Verb: 9, Service: ipvs.Service{Key: key(web)}}})
	return list
}

func TestInvalidNamesTheField(t *testing.T) {
	for _, bad := range invalidOps() {
		err := ipvs.Check(&bad.op)
		require.ErrorIs(t, err, ipvs.ErrInvalid, "%+v", bad.op)
		assert.True(t, strings.HasPrefix(err.Error(), "invalid "+bad.field+": "), "%v: %v", bad.op, err)
	}
}

func TestValidIsNotRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, op := range gen.Table(t, 5, 5, gen.Limits{Engines: []string{"sip"}}) {
			require.NoError(t, ipvs.Check(&op))
		}
	})
}

// What an op prints, typed into the real ipvsadm, must do what Apply does.
func TestKernelOpsAsCommands(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	rapid.Check(t, func(t *rapid.T) {
		ops := gen.Table(t, 6, 6, gen.Limits{Ipvsadm: true, Engines: []string{"sip"}})
		n := len(ops)
		for _, op := range ops[:n] { // and each of them edited or deleted again
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0:
				op.Verb += ipvs.EditService - ipvs.AddService
				if op.Verb == ipvs.EditReal {
					op.Real.Weight ^= 1
				} else {
					op.Service.Scheduler, op.Service.Flags = "lc", op.Service.Flags&ipvs.Persistent
				}
				ops = append(ops, op)
			case 1:
				if op.Verb == ipvs.AddReal {
					op.Verb = ipvs.DelReal
					ops = append(ops, op)
				}
			}
		}
		var script strings.Builder
		for _, op := range ops {
			script.WriteString(op.String() + "\n")
		}
		clearTable(t, c)
		require.NoError(t, c.Apply(context.Background(), ops))
		want := settings(t, c)
		clearTable(t, c)
		restore := exec.Command("ipvsadm", "-R")
		restore.Stdin = strings.NewReader(script.String())
		out, err := restore.CombinedOutput()
		require.NoError(t, err, "%s%s", script.String(), out)
		require.Empty(t, string(out), "%s", script.String())
		require.Equal(t, want, settings(t, c), "%s", script.String())
	})
}
