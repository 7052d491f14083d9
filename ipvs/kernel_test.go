package ipvs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
)

// addressed is the key of the n-th of many virtual servers, backend that of the n-th of many real servers.
func addressed(n int) ipvs.Key {
	return ipvs.Key{Protocol: ipvs.TCP, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + n%250)}), Port: uint16(30000 + n/250)}
}

func backend(n int) ipvs.RealKey {
	return ipvs.RealKey{Addr: netip.AddrFrom4([4]byte{10, 244, byte(n / 250), byte(1 + n%250)}), Port: 80}
}

// Each namespace has a table of its own, and a Conn stays where it was opened, also when it has to
// connect again from a thread that is elsewhere.
func TestKernelNamespaces(t *testing.T) {
	first := kerneltest.Namespace(t)
	at, err := ipvs.OpenAt(first)
	require.NoError(t, err)
	defer func() { _ = at.Close() }()
	here := open(t)
	require.NoError(t, here.Apply(context.Background(), []ipvs.Op{addService(web, "rr")}))

	kerneltest.Namespace(t) // moves this thread on
	other := open(t)
	for name, c := range map[string]*ipvs.Conn{"other": other, "here": here, "at": at} {
		c.ForgetSocket()
		want := 1
		if name == "other" {
			want = 0
		}
		list, err := c.Read(context.Background())
		require.NoError(t, err, name)
		assert.Len(t, list, want, name)
	}
}

// Sequence numbers wrap around in the middle of a batch.
func TestKernelSequenceWraps(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	c.Sequence(^uint32(0) - 2)
	err := c.Apply(context.Background(), []ipvs.Op{
		addService(web, "rr"), addService(web, "rr"), addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.2:80", 1),
	})
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	require.Len(t, batch.Ops, 2)
	assert.Equal(t, 1, batch.Ops[0].Index)
	assert.Equal(t, 3, batch.Ops[1].Index)
}

// A whole batch that fails must fit into the receive buffer, answers and all.
func TestKernelAllFail(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	ops := make([]ipvs.Op, 5000)
	for i := range ops {
		ops[i] = addReal(web, "10.0.0.1:80", 1)
	}
	err := c.Apply(context.Background(), ops)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	require.Len(t, batch.Ops, len(ops))
	for i, op := range batch.Ops {
		if op.Index != i || !errors.Is(op, unix.ESRCH) {
			t.Fatalf("op %d: %d %v", i, op.Index, op.Err)
		}
	}
}

// The batch is small enough for the buffer that a program without privileges gets.
func TestKernelAllFailInASmallBuffer(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	require.NoError(t, c.ReceiveBuffer(212992)) // net.core.rmem_max's default
	ops := make([]ipvs.Op, 1000)
	for i := range ops {
		ops[i] = addService(web, "nonesuch-sched"[:10]) // the longest way to fail
		if i > 2 {
			ops[i] = addReal(web, "10.0.0.1:80", 1)
		}
	}
	err := c.Apply(context.Background(), ops)
	assert.NotErrorIs(t, err, ipvs.ErrUnknownOutcome)
	assert.NotErrorIs(t, err, unix.ENOBUFS)
}

// When answers get lost, what is not known is said to be not known, and the next send is fine.
func TestKernelLostAnswers(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	require.NoError(t, c.Apply(context.Background(), []ipvs.Op{addService(web, "rr")}))
	require.NoError(t, c.ReceiveBuffer(1))
	ops := make([]ipvs.Op, 300)
	for i := range ops {
		ops[i] = addReal(web, "10.0.0.1:80", 1)
	}
	err := c.Apply(context.Background(), ops)
	var batch *ipvs.BatchError
	require.ErrorAs(t, err, &batch)
	require.ErrorIs(t, err, unix.ENOBUFS)
	known := 0
	for _, op := range batch.Ops {
		if !errors.Is(op, ipvs.ErrUnknownOutcome) {
			assert.ErrorIs(t, op, os.ErrExist)
			known++
		}
	}
	assert.GreaterOrEqual(t, known, 300-256, "the second send has a new socket")
	assert.Less(t, known, 299)
	reals, err := c.RealServers(context.Background(), key(web))
	require.NoError(t, err)
	assert.Len(t, reals, 1)
}

// Readers must never see a list that the writer did not make: real servers 0 to n-1 are always there,
// the ones after them come and go.
func TestKernelReadWhileWriting(t *testing.T) {
	ns := kerneltest.Namespace(t)
	c := open(t)
	ctx := context.Background()
	const stable, moving, services = 300, 60, 150
	var ops []ipvs.Op
	for s := range services {
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: ipvs.Service{Key: addressed(s), Scheduler: "rr", Netmask: 0xffffffff}})
	}
	busy := ipvs.Service{Key: addressed(0)}
	for r := range stable {
		ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: busy, Real: ipvs.RealServer{RealKey: backend(r), Weight: 1}})
	}
	require.NoError(t, c.Apply(ctx, ops))

	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		err := kerneltest.In(ns, func() error {
			w, err := ipvs.Open()
			if err != nil {
				return err
			}
			defer func() { _ = w.Close() }()
			for round := 0; ; round++ {
				select {
				case <-stop:
					return nil
				case <-time.After(25 * time.Millisecond):
				}
				op := ipvs.Op{Verb: ipvs.AddReal, Service: busy, Real: ipvs.RealServer{RealKey: backend(stable + round/2%moving), Weight: 1}}
				svc := ipvs.Op{Verb: ipvs.AddService, Service: ipvs.Service{Key: addressed(services + round/2%moving), Scheduler: "rr", Netmask: 0xffffffff}}
				if round%2 == 1 {
					op.Verb, svc.Verb = ipvs.DelReal, ipvs.DelService
				}
				if err := w.Apply(ctx, []ipvs.Op{op, svc}); err != nil {
					return err
				}
			}
		})
		assert.NoError(t, err)
	})
	read, interrupted := 0, 0
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline); {
		list, err := c.RealServers(ctx, addressed(0))
		if errors.Is(err, ipvs.ErrInterrupted) {
			interrupted++
			continue
		}
		if !assert.NoError(t, err) {
			break
		}
		seen := map[ipvs.RealKey]bool{}
		for _, r := range list {
			if seen[r.RealKey] {
				t.Errorf("%v twice", r.RealKey)
			}
			seen[r.RealKey] = true
		}
		for r := range stable {
			if !seen[backend(r)] {
				t.Errorf("%v missing", backend(r))
			}
		}
		if len(list) > stable+1 {
			t.Errorf("%d real servers", len(list))
		}
		table, err := c.Services(ctx)
		if errors.Is(err, ipvs.ErrInterrupted) {
			interrupted++
			continue
		}
		if !assert.NoError(t, err) || !assert.GreaterOrEqual(t, len(table), services) || !assert.LessOrEqual(t, len(table), services+1) {
			break
		}
		read++
	}
	close(stop)
	writer.Wait()
	t.Logf("%d good readings, %d given up", read, interrupted)
	assert.Positive(t, read)
}

// Many goroutines on one Conn.
func TestKernelConcurrentUse(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	ctx := context.Background()
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			k := fmt.Sprintf("FWM %d", g+1)
			for range 20 {
				assert.NoError(t, c.Apply(ctx, []ipvs.Op{addService(k, "rr"), addReal(k, "10.0.0.1:80", 1)}))
				_, err := c.Read(ctx)
				assert.NoError(t, err)
				assert.NoError(t, c.Apply(ctx, []ipvs.Op{{Verb: ipvs.DelService, Service: service(k, "")}}))
			}
		})
	}
	group.Wait()
}

// Connections and bytes are counted, 64 bits wide.
func TestKernelCountsTraffic(t *testing.T) {
	kerneltest.Namespace(t)
	c := open(t)
	ctx := context.Background()
	require.NoError(t, c.Apply(ctx, []ipvs.Op{addService("TCP 127.0.0.1:30080", "rr"), addReal("TCP 127.0.0.1:30080", "127.0.0.1:8080", 1)}))
	talk(t, "127.0.0.1:8080", "127.0.0.1:30080", 3)
	list, err := c.Read(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Len(t, list[0].Reals, 1)
	for _, counters := range []ipvs.Counters{list[0].Counters, *list[0].Reals[0].Counters} {
		if counters.Conns == 0 {
			t.Skip("the estimator has not run yet")
		}
		assert.EqualValues(t, 3, counters.Conns)
		assert.Positive(t, counters.InBytes)
	}
	c.LeaveCounters()
	reals, err := c.RealServers(ctx, list[0].Key)
	require.NoError(t, err)
	require.Len(t, reals, 1)
	require.Nil(t, reals[0].Counters)
	require.Equal(t, list[0].Reals[0].RealServer, reals[0].RealServer)
}

// talk makes connections to a listener in the thread's namespace through the virtual server and waits
// until the kernel's estimator, which runs each two seconds, has seen them.
func talk(t *testing.T, listen, dial string, times int) {
	l, err := net.Listen("tcp", listen)
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	for range times {
		conn, err := net.Dial("tcp", dial)
		require.NoError(t, err)
		accepted, err := l.Accept()
		require.NoError(t, err)
		_, _ = accepted.Write([]byte("v1"))
		_ = accepted.Close()
		_, _ = conn.Read(make([]byte, 2))
		_ = conn.Close()
	}
	time.Sleep(4 * time.Second)
}

func TestOpenWithoutModule(t *testing.T) {
	if _, err := os.Stat("/sys/module/ip_vs"); err == nil {
		t.Skip("this kernel has ip_vs loaded")
	}
	_, err := ipvs.Open()
	require.ErrorIs(t, err, ipvs.ErrNoModule)
	assert.Contains(t, err.Error(), "modprobe ip_vs")
}

// Every call that changes a table is counted, by whatever program, way in and namespace; reading is not.
func TestKernelChangesAreCounted(t *testing.T) {
	kerneltest.Namespace(t)
	c, ctx := open(t), context.Background()
	changes, err := ipvs.OpenChanges()
	require.NoError(t, err)
	defer func() { require.NoError(t, changes.Close()) }()
	moved := func(what string, by uint64, f func()) {
		t.Helper()
		before, err := changes.Count()
		require.NoError(t, err)
		f()
		after, err := changes.Count()
		require.NoError(t, err)
		require.Equal(t, ipvs.PerCall*by, after-before, what)
		patience := time.Minute // of a machine that may be busy
		if by == 0 {
			patience = 300 * time.Millisecond
		}
		select {
		case <-changes.Changed():
			require.NotZero(t, by, "woken for nothing: %s", what)
		case <-time.After(patience):
			require.Zero(t, by, "not woken: %s", what)
		}
	}
	moved("nothing", 0, func() {})
	moved("ops, one of which the kernel refuses", 4, func() {
		err := c.Apply(ctx, []ipvs.Op{addService(web, "rr"), addReal(web, "10.0.0.1:80", 1), addReal(web, "10.0.0.2:80", 1), addReal(web, "10.0.0.2:80", 1)})
		require.ErrorIs(t, err, os.ErrExist)
	})
	moved("more than the ring holds", 3000, func() {
		var ops []ipvs.Op
		for n := range 3000 {
			r := masquerade("10.0.0.1:80", uint32(1+n%2))
			ops = append(ops, ipvs.Op{Verb: ipvs.EditReal, Service: ipvs.Service{Key: key(web)}, Real: r})
		}
		require.NoError(t, c.Apply(ctx, ops))
	})
	time.Sleep(100 * time.Millisecond) // the last of those may have come after its being told
	for len(changes.Changed()) > 0 {
		<-changes.Changed()
	}
	moved("reading", 0, func() {
		_, err := c.Read(ctx)
		require.NoError(t, err)
		_, err = c.RealServers(ctx, key(web))
		require.NoError(t, err)
	})
	moved("ipvsadm", 1, func() {
		out, err := exec.Command("ipvsadm", "-e", "-t", "192.0.2.1:30080", "-r", "10.0.0.1:80", "-m", "-w", "7").CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	moved("the old way in, setsockopt", 1, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		require.NoError(t, err)
		defer func() { _ = unix.Close(fd) }()
		const flush = 64 + 1024 + 64 + 5 // IP_VS_SO_SET_FLUSH, linux/ip_vs.h
		require.NoError(t, unix.SetsockoptString(fd, unix.IPPROTO_IP, flush, ""))
	})
	list, err := c.Read(ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	kerneltest.Namespace(t)
	moved("another namespace", 1, func() {
		require.NoError(t, open(t).Apply(ctx, []ipvs.Op{addService(web, "rr")}))
	})
}
