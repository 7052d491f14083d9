package ipvs_test

import (
	"context"
	"net"
	"testing"

	moby "github.com/moby/ipvs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/internal/kerneltest"
	"github.com/pointsman/pointsman/ipvs"
)

// The benchmarks need a kernel with IPVS: go test -c, then scripts/vm -- ./ipvs.test -test.run '^$' -test.bench Kernel

const benchServices, benchReals = 1000, 20

func benchOps() []ipvs.Op {
	var ops []ipvs.Op
	for s := range benchServices {
		svc := ipvs.Service{Key: addressed(s), Scheduler: "rr", Netmask: 0xffffffff}
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: svc})
		for r := range benchReals {
			ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: svc, Real: ipvs.RealServer{RealKey: backend(r), Weight: 1}})
		}
	}
	return ops
}

// BenchmarkKernelApply makes 1,000 virtual servers of 20 real servers, each time in a fresh namespace: the
// kernel keeps deleted real servers for a minute or two and searches them at each addition.
func BenchmarkKernelApply(b *testing.B) {
	ops := benchOps()
	fresh := func(b *testing.B) *ipvs.Conn {
		b.StopTimer()
		kerneltest.Namespace(b)
		return open(b)
	}
	perChange := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(ops)), "µs/change")
	}
	b.Run("pointsman", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			c := fresh(b)
			b.StartTimer()
			require.NoError(b, c.Apply(context.Background(), ops))
		}
		perChange(b)
	})
	// What it costs that each change is counted, and told of, while they are made.
	b.Run("counted", func(b *testing.B) {
		for range b.N {
			c := fresh(b)
			changes, err := ipvs.OpenChanges()
			require.NoError(b, err)
			b.StartTimer()
			require.NoError(b, c.Apply(context.Background(), ops))
			b.StopTimer()
			require.NoError(b, changes.Close())
		}
		perChange(b)
	})
	b.Run("moby", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			fresh(b)
			h := openMoby(b)
			b.StartTimer()
			for i := range ops {
				op := &ops[i]
				s := &moby.Service{
					Address: net.IP(op.Service.Addr.AsSlice()), Protocol: uint16(op.Service.Protocol), Port: op.Service.Port,
					SchedName: "rr", AddressFamily: unix.AF_INET, Netmask: op.Service.Netmask,
				}
				err := error(nil)
				if op.Verb == ipvs.AddService {
					err = h.NewService(s)
				} else {
					err = h.NewDestination(s, &moby.Destination{
						Address: net.IP(op.Real.Addr.AsSlice()), Port: op.Real.Port, Weight: 1, AddressFamily: unix.AF_INET,
					})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		perChange(b)
	})
}

// BenchmarkKernelRead reads 20,000 real servers of 1,000 virtual servers.
func BenchmarkKernelRead(b *testing.B) {
	kerneltest.Namespace(b)
	c := open(b)
	require.NoError(b, c.Apply(context.Background(), benchOps()))
	h := openMoby(b) // here: sub-benchmarks run on other threads, so in another namespace
	b.Run("pointsman", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list, err := c.Read(context.Background())
			require.NoError(b, err)
			require.Len(b, list, benchServices)
		}
	})
	b.Run("uncounted", func(b *testing.B) {
		c.LeaveCounters()
		b.ReportAllocs()
		for b.Loop() {
			list, err := c.Read(context.Background())
			require.NoError(b, err)
			require.Len(b, list, benchServices)
		}
	})
	b.Run("moby", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list, err := h.GetServices()
			require.NoError(b, err)
			for _, s := range list {
				reals, err := h.GetDestinations(s)
				require.NoError(b, err)
				require.Len(b, reals, benchReals)
			}
		}
	})
}

func openMoby(b *testing.B) *moby.Handle {
	h, err := moby.New("")
	require.NoError(b, err)
	b.Cleanup(h.Close)
	return h
}

// BenchmarkEncode is the writer without the kernel.
func BenchmarkEncode(b *testing.B) {
	op := addReal(web, "10.0.0.1:80", 1)
	for b.Loop() {
		ipvs.EncodeOp(op)
	}
}
