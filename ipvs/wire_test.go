package ipvs_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
)

// payload is what follows both headers.
func payload(t require.TestingT, message []byte) []byte {
	require.Greater(t, len(message), unix.SizeofNlMsghdr+4)
	return message[unix.SizeofNlMsghdr+4:]
}

// The kernel's dump has the same attributes as the writer's messages, so what is written must read back.
func TestWireRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := gen.Key(t, gen.Limits{})
		want := gen.Service(t, key, gen.Limits{Engines: []string{"sip", "fifteen_letters"}})
		message := ipvs.EncodeOp(ipvs.Op{Verb: ipvs.AddService, Service: want})
		assert.LessOrEqual(t, len(message), ipvs.OpMax)
		var got ipvs.ServiceInfo
		require.NoError(t, ipvs.ParseService(payload(t, message), &got))
		require.Equal(t, want, got.Service)

		real := gen.Real(t, key, gen.Limits{})
		message = ipvs.EncodeOp(ipvs.Op{Verb: ipvs.AddReal, Service: want, Real: real})
		assert.LessOrEqual(t, len(message), ipvs.OpMax)
		var info ipvs.RealInfo
		require.NoError(t, ipvs.ParseReal(payload(t, message), 0, true, &info))
		require.Equal(t, real, info.RealServer)
	})
}

// One message spelt out, so that a mistake made in both the writer and the parser is seen.
func TestWireBytes(t *testing.T) {
	op := ipvs.Op{Verb: ipvs.AddReal, Service: service("TCP 192.0.2.1:30080", "rr"), Real: masquerade("10.244.140.76:80", 1)}
	want := `
		74000000 2000 0100 07000000 00000000 05 01 0000
		2400 0100
			0600 0100 0200 0000
			0600 0200 0600 0000
			0800 0300 c0000201
			0600 0400 7580 0000
		3c00 0200
			0800 0100 0af48c4c
			0600 0200 0050 0000
			0600 0b00 0200 0000
			0800 0300 00000000
			0800 0400 01000000
			0800 0500 00000000
			0800 0600 00000000`
	assert.Equal(t, strings.Join(strings.Fields(want), ""), hex.EncodeToString(ipvs.EncodeOp(op)))
}

func TestParseRefuses(t *testing.T) {
	whole := payload(t, ipvs.EncodeOp(ipvs.Op{Verb: ipvs.AddService, Service: service("TCP 192.0.2.1:30080", "rr")}))
	var s ipvs.ServiceInfo
	require.NoError(t, ipvs.ParseService(whole, &s))
	for cut := range len(whole) {
		short := append([]byte{}, whole[:cut]...)
		assert.Error(t, ipvs.ParseService(short, &s), "cut to %d bytes", cut)
	}
}

// 4-in-6 addresses must not come back in two forms.
func TestParseUnmaps(t *testing.T) {
	op := ipvs.Op{Verb: ipvs.AddReal, Service: service("TCP [2001:db8::1]:80", "rr"), Real: masquerade("[::ffff:192.0.2.9]:80", 1)}
	var r ipvs.RealInfo
	require.NoError(t, ipvs.ParseReal(payload(t, ipvs.EncodeOp(op)), unix.AF_INET6, true, &r))
	assert.Equal(t, "192.0.2.9:80", r.RealKey.String())
}

func FuzzParse(f *testing.F) {
	for _, op := range []ipvs.Op{
		{Verb: ipvs.AddService, Service: service("TCP 192.0.2.1:30080", "rr")},
		{Verb: ipvs.AddService, Service: service("FWM 7 IPv6", "mh")},
		{Verb: ipvs.AddReal, Service: service("TCP [2001:db8::1]:80", "rr"), Real: masquerade("[2001:db8::2]:80", 1)},
	} {
		message := ipvs.EncodeOp(op)
		f.Add(message)
		f.Add(payload(f, message))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s ipvs.ServiceInfo
		if ipvs.ParseService(b, &s) == nil {
			_ = s.Key.String()
			if s.Addr.Is4In6() || !s.Addr.IsValid() {
				t.Errorf("address %v", s.Addr)
			}
		}
		for _, af := range []uint16{0, unix.AF_INET, unix.AF_INET6} {
			var r ipvs.RealInfo
			if ipvs.ParseReal(b, af, true, &r) == nil && (r.Addr.Is4In6() || !r.Addr.IsValid()) {
				t.Errorf("address %v", r.Addr)
			}
		}
		_, _ = ipvs.ParseDaemon(b)
		_, _ = ipvs.CutAll(b)
	})
}
