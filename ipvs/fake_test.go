package ipvs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/ipvs"
)

func TestFakeIntercept(t *testing.T) {
	ctx := context.Background()
	f := ipvs.NewFake()
	lost := errors.New("cable pulled")
	var seen []int
	f.Intercept(func(n int, op ipvs.Op) error {
		seen = append(seen, n)
		if n == 2 {
			return lost
		}
		return nil
	})
	require.NoError(t, f.Apply(ctx, []ipvs.Op{addService(web, "rr")}))
	err := f.Apply(ctx, []ipvs.Op{addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.2:80", 1), addReal(web, "10.0.0.3:80", 1)})
	require.ErrorIs(t, err, lost)
	var op *ipvs.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, 1, op.Index)
	assert.Equal(t, []int{0, 1, 2, 3}, seen)
	reals, err := f.RealServers(ctx, key(web))
	require.NoError(t, err)
	assert.Len(t, reals, 2)
	f.Intercept(nil)
	require.NoError(t, f.Apply(ctx, []ipvs.Op{addReal(web, "10.0.0.2:80", 1)}))
}

func TestFakeCounters(t *testing.T) {
	ctx := context.Background()
	f := ipvs.NewFake()
	require.NoError(t, f.Apply(ctx, []ipvs.Op{addService(web, "rr"), addReal(web, "10.0.0.1:80", 3)}))
	require.True(t, f.SetService(key(web), ipvs.Counters{Conns: 5}))
	require.True(t, f.SetReal(key(web), realKey("10.0.0.1:80"), ipvs.RealInfo{Active: 2, Inactive: 1}))
	assert.False(t, f.SetService(key("FWM 7"), ipvs.Counters{}))
	assert.False(t, f.SetReal(key("FWM 7"), realKey("10.0.0.1:80"), ipvs.RealInfo{}))
	assert.False(t, f.SetReal(key(web), realKey("10.0.0.9:80"), ipvs.RealInfo{}))
	list, err := f.Read(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, 5, list[0].Counters.Conns)
	assert.Equal(t, []ipvs.RealInfo{{RealServer: masquerade("10.0.0.1:80", 3), Active: 2, Inactive: 1}}, list[0].Reals)

	// An edit keeps what is counted; what was read stays as it was.
	require.NoError(t, f.Apply(ctx, []ipvs.Op{{Verb: ipvs.EditReal, Service: service(web, ""), Real: masquerade("10.0.0.1:80", 0)}}))
	assert.EqualValues(t, 3, list[0].Reals[0].Weight)
	reals, err := f.RealServers(ctx, key(web))
	require.NoError(t, err)
	assert.EqualValues(t, 2, reals[0].Active)
	assert.Zero(t, reals[0].Weight)
}

func TestBatchErrorText(t *testing.T) {
	f := ipvs.NewFake()
	ops := []ipvs.Op{addReal(web, "10.0.0.1:80", 1), addService(web, "nonesuch"), addService(web, "rr"), addService(web, "rr"),
		addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.1:80", 1), {Verb: ipvs.DelReal, Service: service(web, ""), Real: masquerade("10.0.0.9:80", 0)}}
	err := f.Apply(context.Background(), ops)
	assert.EqualError(t, err, "ipvs: 5 of 7 changes failed: "+
		"ipvsadm -a -t 192.0.2.1:30080 -r 10.0.0.1:80 -m -w 1: no such virtual server; "+
		"ipvsadm -A -t 192.0.2.1:30080 -s nonesuch: no such scheduler or persistence engine in the kernel; "+
		"ipvsadm -A -t 192.0.2.1:30080 -s rr: the virtual server exists already; and 2 more")
	var errno unix.Errno
	require.ErrorAs(t, err, &errno)
	assert.Equal(t, unix.ESRCH, errno)
	assert.ErrorIs(t, err, unix.EEXIST)
	unknown := &ipvs.OpError{Op: ops[0], Err: errors.Join(ipvs.ErrUnknownOutcome, unix.ENOBUFS)}
	assert.NotErrorIs(t, unknown, unix.ENOENT)
	assert.ErrorIs(t, unknown, ipvs.ErrUnknownOutcome)
	assert.ErrorIs(t, unknown, unix.ENOBUFS)
}
