package ipvs_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/internal/gen"
)

// The same suite runs against the kernel and the fake: what it holds of one, a caller may expect of both.

func TestFakeConforms(t *testing.T) {
	for name, test := range suite {
		t.Run(name, func(t *testing.T) { test(t, ipvs.NewFake()) })
	}
}

func TestKernelConforms(t *testing.T) {
	kerneltest.Namespace(t)
	for name, test := range suite {
		c := open(t) // here: subtests run on other threads, so in another namespace
		clearTable(t, c)
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

var suite = map[string]func(*testing.T, table){
	"an empty table":                 testEmpty,
	"refusals carry the errno":       testRefusals,
	"invalid ops are not sent":       testInvalid,
	"an error does not stop":         testErrorsDoNotStop,
	"the last added is first":        testOrder,
	"an edit replaces everything":    testEdit,
	"a deletion takes the rest with": testDelete,
	"counters begin at zero":         testCounters,
	"contexts that have ended":       testContext,
	"header":                         testHeader,
	"many ops":                       testMany,
	"closed":                         testClosed,
}

const web = "TCP 192.0.2.1:30080"

func testEmpty(t *testing.T, c table) {
	list, err := c.Read(context.Background())
	require.NoError(t, err)
	assert.Empty(t, list)
	require.NoError(t, c.Apply(context.Background(), nil))
	_, err = c.RealServers(context.Background(), key(web))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func testRefusals(t *testing.T, c table) {
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{addService(web, "rr"), addReal(web, "10.0.0.1:80", 1), addService("FWM 7 IPv6", "rr")}))
	tunnel := ipvs.RealServer{RealKey: realKey("10.0.0.9:30080"), Forwarding: ipvs.Tunnel}
	overlap := masquerade("10.0.0.2:80", 1)
	overlap.Lower = 1
	edit := func(s ipvs.Service) ipvs.Op { return ipvs.Op{Verb: ipvs.EditService, Service: s} }
	on := func(verb ipvs.Verb, k string, r ipvs.RealServer) ipvs.Op {
		return ipvs.Op{Verb: verb, Service: ipvs.Service{Key: key(k)}, Real: r}
	}
	other := "TCP 192.0.2.1:30081"
	for _, test := range []struct {
		op    ipvs.Op
		errno unix.Errno
		is    error
	}{
		{addService(web, "rr"), unix.EEXIST, os.ErrExist},
		{addService(web, "nonesuch"), unix.EEXIST, os.ErrExist},
		{addService(other, "nonesuch"), unix.ENOENT, nil},
		{edit(service(web, "nonesuch")), unix.ENOENT, nil},
		{edit(service(other, "rr")), unix.ESRCH, os.ErrNotExist},
		{ipvs.Op{Verb: ipvs.DelService, Service: service(other, "")}, unix.ESRCH, os.ErrNotExist},
		{addReal(other, "10.0.0.1:80", 1), unix.ESRCH, os.ErrNotExist},
		{addReal(web, "10.0.0.1:80", 2), unix.EEXIST, os.ErrExist},
		{on(ipvs.EditReal, web, masquerade("10.0.0.2:80", 1)), unix.ENOENT, os.ErrNotExist},
		{on(ipvs.DelReal, web, masquerade("10.0.0.2:80", 1)), unix.ENOENT, os.ErrNotExist},
		{on(ipvs.DelReal, web, masquerade("[2001:db8::1]:80", 1)), unix.ENOENT, os.ErrNotExist},
		{on(ipvs.DelReal, other, masquerade("10.0.0.2:80", 1)), unix.ESRCH, os.ErrNotExist},
		{on(ipvs.AddReal, web, masquerade("[2001:db8::1]:80", 1)), unix.EINVAL, nil},
		{on(ipvs.EditReal, web, masquerade("[2001:db8::1]:80", 1)), unix.EINVAL, nil},
		{on(ipvs.AddReal, web, overlap), unix.ERANGE, nil},
		{on(ipvs.AddReal, web, masquerade("224.0.0.1:80", 1)), unix.EINVAL, nil},
		{on(ipvs.AddReal, web, masquerade("0.0.0.0:80", 1)), unix.EINVAL, nil},
		{on(ipvs.AddReal, "FWM 7 IPv6", masquerade("[fe80::1]:80", 1)), unix.EINVAL, nil},
		{on(ipvs.AddReal, "FWM 7 IPv6", masquerade("[ff02::1]:80", 1)), unix.EINVAL, nil},
		{on(ipvs.AddReal, "FWM 7 IPv6", tunnel), 0, nil}, // a tunnel may cross families
	} {
		before := settings(t, c)
		err := c.Apply(ctx, []ipvs.Op{test.op})
		if test.errno == 0 {
			assert.NoError(t, err, "%v", test.op)
			continue
		}
		assert.ErrorIs(t, err, test.errno, "%v", test.op)
		assert.Equal(t, test.is == os.ErrExist, errors.Is(err, os.ErrExist), "%v: %v", test.op, err)
		assert.Equal(t, test.is == os.ErrNotExist, errors.Is(err, os.ErrNotExist), "%v: %v", test.op, err)
		assert.Equal(t, before, settings(t, c), "%v", test.op)
	}
}

func testInvalid(t *testing.T, c table) {
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{addService(web, "rr")}))
	before := settings(t, c)
	var ops []ipvs.Op
	for _, bad := range invalidOps() {
		ops = append(ops, bad.op)
	}
	ops = append(ops, addReal(web, "10.0.0.1:80", 1))
	err := c.Apply(ctx, ops)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	require.Len(t, batch.Ops, len(ops)-1)
	for i, op := range batch.Ops {
		assert.ErrorIs(t, op, ipvs.ErrInvalid)
		assert.Equal(t, i, op.Index)
		assert.Equal(t, ops[i], op.Op)
	}
	reals, err := c.RealServers(ctx, key(web))
	require.NoError(t, err)
	assert.Len(t, reals, 1, "the valid op among them is done")
	require.NoError(t, c.Apply(ctx, []ipvs.Op{{Verb: ipvs.DelReal, Service: service(web, ""), Real: reals[0].RealServer}}))
	assert.Equal(t, before, settings(t, c))
	_, err = c.RealServers(ctx, ipvs.Key{})
	assert.ErrorIs(t, err, ipvs.ErrInvalid)
}

func testErrorsDoNotStop(t *testing.T, c table) {
	ops := []ipvs.Op{
		addReal(web, "10.0.0.1:80", 1), // too early
		addService(web, "rr"),
		addReal(web, "10.0.0.1:80", 1),
		addService(web, "wrr"), // twice
		addReal(web, "10.0.0.2:80", 1),
		addReal(web, "10.0.0.2:80", 1), // twice, and last: its answer is the one that ends the batch
	}
	err := c.Apply(context.Background(), ops)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	var failed []int
	for _, op := range batch.Ops {
		failed = append(failed, op.Index)
	}
	assert.Equal(t, []int{0, 3, 5}, failed)
	assert.Equal(t, len(ops), batch.Total)
	assert.ErrorIs(t, err, os.ErrExist)
	assert.ErrorIs(t, err, os.ErrNotExist)
	reals, err := c.RealServers(context.Background(), key(web))
	require.NoError(t, err)
	assert.Len(t, reals, 2)
}

func testOrder(t *testing.T, c table) {
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{
		addService(web, "rr"), addReal(web, "10.0.0.2:80", 1), addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.3:80", 1),
		{Verb: ipvs.EditReal, Service: service(web, ""), Real: masquerade("10.0.0.2:80", 0)},
	}))
	reals, err := c.RealServers(ctx, key(web))
	require.NoError(t, err)
	var order []string
	for _, r := range reals {
		order = append(order, r.RealKey.String())
	}
	assert.Equal(t, []string{"10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"}, order)
	assert.Zero(t, reals[2].Weight)
}

func testEdit(t *testing.T, c table) {
	ctx := context.Background()
	first := service(web, "sh")
	first.Flags = ipvs.Persistent | ipvs.Sched1 | ipvs.Sched2 | ipvs.OnePacket
	first.Timeout, first.Netmask, first.PersistenceEngine = 10800, 0xffffff00, "sip"
	require.NoError(t, c.Apply(ctx, []ipvs.Op{{Verb: ipvs.AddService, Service: first}}))
	list, err := c.Services(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, first, list[0].Service)
	assert.Nil(t, list[0].Reals)

	second := service(web, "wrr")
	require.NoError(t, c.Apply(ctx, []ipvs.Op{{Verb: ipvs.EditService, Service: second}}))
	list, err = c.Services(ctx)
	require.NoError(t, err)
	assert.Equal(t, second, list[0].Service)
}

func testDelete(t *testing.T, c table) {
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{
		addService(web, "rr"), addReal(web, "10.0.0.1:80", 5),
		{Verb: ipvs.DelService, Service: ipvs.Service{Key: key(web)}},
		addService(web, "rr"),
	}))
	reals, err := c.RealServers(ctx, key(web))
	require.NoError(t, err)
	assert.Empty(t, reals)
	list, err := c.Read(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.NotNil(t, list[0].Reals)
}

func testCounters(t *testing.T, c table) {
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{addService(web, "rr"), addReal(web, "10.0.0.1:80", 1)}))
	list, err := c.Read(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Zero(t, list[0].Counters)
	require.Len(t, list[0].Reals, 1)
	real := list[0].Reals[0]
	if real.Counters != nil { // nil where nothing was counted, or counting was left
		assert.Zero(t, *real.Counters)
		real.Counters = nil
	}
	assert.Equal(t, ipvs.RealInfo{RealServer: masquerade("10.0.0.1:80", 1)}, real)
}

func testContext(t *testing.T, c table) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Read(ended)
	assert.ErrorIs(t, err, context.Canceled)
	err = c.Apply(ended, []ipvs.Op{addService(web, "rr"), addService(web, "rr")})
	assert.ErrorIs(t, err, context.Canceled)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	assert.Len(t, batch.Ops, 2)
	list, err := c.Read(context.Background())
	require.NoError(t, err)
	assert.Empty(t, list)
}

func testHeader(t *testing.T, c table) {
	ctx := context.Background()
	// From Linux 7.0 on a namespace without virtual servers has no table of connections.
	require.NoError(t, c.Apply(ctx, []ipvs.Op{addService(web, "rr")}))
	info, err := c.Info(ctx)
	require.NoError(t, err)
	assert.Equal(t, uint32(0x010201), info.Version)
	assert.NotZero(t, info.ConnTableSize)
	timeouts, err := c.Timeouts(ctx)
	require.NoError(t, err)
	assert.Equal(t, ipvs.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}, timeouts)
	daemons, err := c.Daemons(ctx)
	require.NoError(t, err)
	assert.Empty(t, daemons)
}

// More than one send and more than one part of a dump, with failures in each.
func testMany(t *testing.T, c table) {
	const services, reals = 130, 200
	ctx := context.Background()
	var ops []ipvs.Op
	var failing []int
	for s := range services {
		k := addressed(s)
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: ipvs.Service{Key: k, Scheduler: "rr", Netmask: 0xffffffff}})
		for r := range reals {
			if s > 1 && r > 1 {
				break
			}
			op := ipvs.Op{Verb: ipvs.AddReal, Service: ipvs.Service{Key: k}, Real: ipvs.RealServer{RealKey: backend(r), Weight: 1}}
			ops = append(ops, op)
			if r == 1 {
				failing = append(failing, len(ops))
				ops = append(ops, op)
			}
		}
	}
	err := c.Apply(ctx, ops)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	var failed []int
	for _, op := range batch.Ops {
		assert.ErrorIs(t, op, os.ErrExist)
		failed = append(failed, op.Index)
	}
	assert.Equal(t, failing, failed)
	list, err := c.Read(ctx)
	require.NoError(t, err)
	require.Len(t, list, services)
	for _, s := range list {
		want := 2
		if s.Key == addressed(0) || s.Key == addressed(1) {
			want = reals
		}
		assert.Len(t, s.Reals, want, "%v", s.Key)
	}
}

func testClosed(t *testing.T, c table) {
	require.NoError(t, c.Close())
	assert.ErrorIs(t, c.Close(), os.ErrClosed)
	_, err := c.Read(context.Background())
	assert.ErrorIs(t, err, os.ErrClosed)
	assert.ErrorIs(t, c.Apply(context.Background(), []ipvs.Op{addService(web, "rr")}), os.ErrClosed)
	_, err = c.Info(context.Background())
	assert.ErrorIs(t, err, os.ErrClosed)
}

// The fake must do what the kernel does with any op, errors included.
func TestKernelLikeFake(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	limits := gen.Limits{NearKeys: true, Engines: []string{"sip"}}
	rapid.Check(t, func(t *rapid.T) {
		clearTable(t, c)
		fake := ipvs.NewFake()
		ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ipvs.Op { return gen.Op(t, limits) }), 1, 60).Draw(t, "ops")
		want, got := fake.Apply(context.Background(), ops), c.Apply(context.Background(), ops)
		assert.Equal(t, want, got)
		assert.Equal(t, settings(t, fake), settings(t, c))
	})
}
