//go:build bench

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
	"github.com/pointsman/pointsman/ipvs"
)

// The size of the table: what coexistence was measured with before.
const (
	benchServices = 1000
	benchEach     = 20
	idle          = 60 * time.Second
	settled       = 45 * time.Second // from little work to none
)

// trash is longer than the kernel keeps real servers that were deleted: a timer of a minute finds them, and frees them two minutes
// after (ip_vs_dest_trash_expire). It looks each new one up among them one by one, so kube-proxy's 20,000 would double
// the time that it takes to fill the table after it.
const trash = 250 * time.Second

func benchIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(100 + i>>8), byte(i)}) }

// figures are what is compared of the two programs.
type figures struct {
	full, work, cpu time.Duration
	rss, anon       int // kB
	changes         []time.Duration
	answers         []time.Duration // of them, what the API server took to answer
}

// TestClusterBench prints pointsman beside kube-proxy in ipvs mode, in one guest, over the same objects.
func TestClusterBench(t *testing.T) {
	c := New(t)
	account := c.install()
	n := c.Node(Master)
	b := newBencher(c)
	began := time.Now()
	b.create()
	t.Logf("%d Services of %d endpoints made in %v", benchServices, benchEach, time.Since(began).Round(time.Second))

	kubeProxy := func(n *Node) *lab.Daemon {
		return c.Run(n, Binary("kube-proxy"), "--kubeconfig="+handed("kube-proxy.kubeconfig"), "--hostname-override="+n.Name(),
			"--proxy-mode=ipvs", "--cluster-cidr="+PodNetwork.String(), "--conntrack-max-per-core=0", "--conntrack-min=0")
	}
	pointsman := func(n *Node) *lab.Daemon { return c.Pointsman(n, account) }

	// Each starts twice: the first time with its file not in memory and modules not loaded, and on a node with half of the pods.
	proxyFirst := b.begin(c.Node("node01"), "kube-proxy", kubeProxy)
	proxyFirst.end()
	proxy := b.measure(n, "kube-proxy", 12, kubeProxy)
	_, err := n.Run("ipvsadm", "-C")
	require.NoError(t, err)
	_, err = n.Run("ip", "link", "del", "kube-ipvs0")
	require.NoError(t, err)
	cleared := time.Now()
	b.handOver()
	oursFirst := b.begin(c.Node("node02"), "pointsman", pointsman)
	oursFirst.end()
	c.kubectl("delete", "nodereport", "node02", "--ignore-not-found") // as if that node were gone: one node is measured
	time.Sleep(time.Until(cleared.Add(trash)))
	ours := b.measure(n, "pointsman", 60, pointsman)

	out := fmt.Sprintf("\n%d Services of %d endpoints, kernel %s, in one emulated guest\n", benchServices, benchEach, kernelRelease())
	out += fmt.Sprintf("%-52s %12s %12s %8s %8s\n", "", "kube-proxy", "pointsman", "ratio", "wanted")
	row := func(what, proxy, ours string, ratio float64, wanted string) {
		out += fmt.Sprintf("%-52s %12s %12s %7.1fx %8s\n", what, proxy, ours, ratio, wanted)
	}
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	row("from its start to the full table", ms(proxy.full), ms(ours.full), float64(proxy.full)/float64(ours.full), "10x")
	row("  the first one since the boot, with pods here", ms(proxyFirst.full), ms(oursFirst.full), float64(proxyFirst.full)/float64(oursFirst.full), "10x")
	row("processor time until then", ms(proxy.work), ms(ours.work), float64(proxy.work)/float64(max(ours.work, tick)), "")
	row("processor time at rest, in "+idle.String(), ms(proxy.cpu), ms(ours.cpu), float64(proxy.cpu)/float64(max(ours.cpu, tick)), "20x")
	mb := func(kB int) string { return fmt.Sprintf("%d MB", kB>>10) }
	row("resident memory", mb(proxy.rss), mb(ours.rss), float64(proxy.rss)/float64(ours.rss), "2x")
	row("  of it not of the program's file", mb(proxy.anon), mb(ours.anon), float64(proxy.anon)/float64(ours.anon), "")
	for _, p := range []struct {
		name string
		q    float64
	}{{"median", 0.5}, {"p99", 0.99}} {
		a, o := quantile(proxy.changes, p.q), quantile(ours.changes, p.q)
		row(fmt.Sprintf("one endpoint, API write to kernel, %s of %d and %d", p.name, len(proxy.changes), len(ours.changes)), ms(a), ms(o), float64(a)/float64(o), "")
		a, o = quantile(proxy.answers, p.q), quantile(ours.answers, p.q)
		row("  of it until the API server answered", ms(a), ms(o), float64(a)/float64(o), "")
	}
	fmt.Println(out)
}

type bencher struct {
	c       *Cluster
	kube    kubernetes.Interface
	dynamic dynamic.Interface
}

func newBencher(c *Cluster) *bencher {
	config := rest.CopyConfig(c.Config)
	config.QPS = -1
	dyn, err := dynamic.NewForConfig(config)
	require.NoError(c.t, err)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	kube, err := kubernetes.NewForConfig(config)
	require.NoError(c.t, err)
	return &bencher{c, kube, dyn}
}

// all calls f for each Service, some at a time.
func (b *bencher) all(f func(i int) error) {
	b.c.t.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	for i := range benchServices {
		group.Go(func() error { return f(i) })
	}
	require.NoError(b.c.t, group.Wait())
}

func benchName(i int) string { return fmt.Sprintf("app-%04d", i) }

func (b *bencher) create() {
	ctx := context.Background()
	b.all(func(i int) error {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: benchName(i), Namespace: "default"},
			Spec:       corev1.ServiceSpec{ClusterIP: benchIP(i).String(), Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}},
		}
		if _, err := b.kube.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := b.kube.DiscoveryV1().EndpointSlices("default").Create(ctx, b.slice(i, benchEach), metav1.CreateOptions{})
		return err
	})
}

func (b *bencher) slice(i, each int) *discoveryv1.EndpointSlice {
	name, port, protocol, yes := "http", int32(80), corev1.ProtocolTCP, true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: benchName(i), Namespace: "default", Labels: map[string]string{
			discoveryv1.LabelServiceName: benchName(i), discoveryv1.LabelManagedBy: "bench", "version": "v1",
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for j := range each {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), byte(j + 1)}).String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			NodeName:   &[]string{"node01", "node02"}[j%2],
		})
	}
	return s
}

// handOver labels everything for pointsman and declares it.
func (b *bencher) handOver() {
	ctx := context.Background()
	label := []byte(`{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":"pointsman"}}}`)
	servers := b.dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers")).Namespace("default")
	b.all(func(i int) error {
		if _, err := b.kube.CoreV1().Services("default").Patch(ctx, benchName(i), types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
			return err
		}
		if _, err := b.kube.DiscoveryV1().EndpointSlices("default").Patch(ctx, benchName(i), types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
			return err
		}
		vs := &v1alpha1.VirtualServer{Spec: v1alpha1.VirtualServerSpec{Active: "v1", Service: v1alpha1.ServiceReference{Name: benchName(i)}}}
		vs.APIVersion, vs.Kind, vs.Name = v1alpha1.GroupVersion.String(), "VirtualServer", benchName(i)
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(vs)
		if err != nil {
			return err
		}
		delete(object, "status")
		_, err = servers.Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
		return err
	})
}

// started is a program that has made its table full.
type started struct {
	*lab.Daemon
	full, work time.Duration
	table      *ipvs.Conn
}

func (s started) end() {
	s.table.Close()
	s.Kill()
}

// begin starts a program and waits until its table is full.
func (b *bencher) begin(n *Node, name string, start func(*Node) *lab.Daemon) (s started) {
	t := b.c.t
	t.Helper()
	began := time.Now()
	s.Daemon = start(n)
	require.NoError(t, n.Do(func() (err error) { s.table, err = ipvs.Open(); return err }))
	s.full, s.work = b.awaitFull(s.table).Sub(began), cpuTime(t, s.Pid())
	t.Logf("%s on %s: full after %v", name, n.Name(), s.full.Round(time.Millisecond))
	return s
}

// measure starts a program and ends it when it has been measured.
func (b *bencher) measure(n *Node, name string, changes int, start func(*Node) *lab.Daemon) (f figures) {
	t := b.c.t
	d := b.begin(n, name, start)
	defer d.end()
	table := d.table
	f.full, f.work = d.full, d.work
	// What a program does after its start is not rest: pointsman writes a thousand statuses, and gives memory back when it has.
	const look = 5 * time.Second
	before := cpuTime(t, d.Pid())
	for range 60 {
		time.Sleep(look)
		now := cpuTime(t, d.Pid())
		quiet := now-before < look/10
		if before = now; quiet {
			break
		}
	}
	time.Sleep(settled)
	before = cpuTime(t, d.Pid())
	time.Sleep(idle)
	f.cpu, f.rss, f.anon = cpuTime(t, d.Pid())-before, resident(t, d.Pid(), "VmRSS"), resident(t, d.Pid(), "RssAnon")
	t.Logf("%s: at rest %v, %d kB", name, f.cpu, f.rss)

	ctx, at, end := context.Background(), benchServices/2, time.Now().Add(Patience)
	key := ipvs.Key{Protocol: ipvs.TCP, Addr: benchIP(at), Port: 80}
	for i := range changes {
		if time.Now().After(end) {
			break // kube-proxy, where the guest is slow
		}
		slice := b.slice(at, benchEach+1-i%2)
		if name == "pointsman" {
			slice.Labels["service.kubernetes.io/service-proxy-name"] = "pointsman"
		}
		began := time.Now()
		_, err := b.kube.DiscoveryV1().EndpointSlices("default").Update(ctx, slice, metav1.UpdateOptions{})
		require.NoError(t, err)
		f.answers = append(f.answers, time.Since(began))
		for serving(t, table, key) != len(slice.Endpoints) {
			require.Less(t, time.Since(began), 3*Patience, "the change is in the kernel")
			time.Sleep(2 * time.Millisecond)
		}
		f.changes = append(f.changes, time.Since(began))
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("%s: changes %v, answered after %v", name, f.changes, f.answers)
	return f
}

// awaitFull says when every Service had all its real servers. It asks for those of a few Services, and reads the
// whole table only when these have them all: reading it again and again would take a third of the guest's one
// processor from who is measured.
func (b *bencher) awaitFull(table *ipvs.Conn) (at time.Time) {
	b.c.t.Helper()
	ask := map[ipvs.Key]bool{}
	for i := 0; i < benchServices; i += benchServices / 20 {
		ask[ipvs.Key{Protocol: ipvs.TCP, Addr: benchIP(i), Port: 80}] = true
	}
	ctx := context.Background()
	b.c.Eventually(10*time.Minute, "the table is full", func() error {
		for key := range ask {
			if reals, _ := table.RealServers(ctx, key); len(reals) < benchEach {
				return fmt.Errorf("%s has %d real servers", key, len(reals))
			}
			delete(ask, key)
		}
		at = time.Now()
		services, err := table.Read(ctx)
		full := 0
		for _, s := range services {
			if len(s.Reals) >= benchEach {
				full++
			} else if len(ask) < 20 && s.Addr.As4()[1] == 96 {
				ask[s.Key] = true
			}
		}
		if err == nil && full < benchServices {
			err = fmt.Errorf("%d Services of %d have all real servers", full, benchServices)
		}
		return err
	})
	return at
}

// serving counts the real servers that get connections.
func serving(t *testing.T, table *ipvs.Conn, key ipvs.Key) (n int) {
	t.Helper()
	reals, err := table.RealServers(context.Background(), key)
	require.NoError(t, err)
	for _, r := range reals {
		if r.Weight > 0 {
			n++
		}
	}
	return n
}

func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func kernelRelease() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(text))
}

// tick is the unit of times in /proc (USER_HZ, which is 100 on every architecture that matters here).
const tick = 10 * time.Millisecond

// cpuTime is the processor time that a process has used (proc(5), stat fields 14 and 15, in ticks of 10 ms).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	require.NoError(t, err)
	return time.Duration(user+system) * tick
}

// resident is VmRSS, or a part of it, in kB.
func resident(t *testing.T, pid int, what string) (kB int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, what+":"); ok {
			_, err := fmt.Sscan(value, &kB)
			require.NoError(t, err)
		}
	}
	return kB
}
