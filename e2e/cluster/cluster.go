package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/pointsman/pointsman/internal/lab"
)

// Patience is for what has to happen at some time, on a machine that may be several times slower than the one that
// a test was written on. It is what a failure costs, and nothing else.
const Patience = 5 * time.Minute

// Master is the node with the role control-plane, and the taint that goes with it.
const Master = "mast01"

// Networks.
var (
	PodNetwork    = netip.MustParsePrefix("10.244.0.0/16") // each node has a /24 of it
	ClientNetwork = netip.MustParsePrefix("192.0.2.0/24")
	uplinkNetwork = netip.MustParsePrefix("172.31.255.0/24")

	podNetwork6 = netip.MustParsePrefix("fd00:10:244::/48") // the sisters of PodNetwork's
)

// sister is the IPv6 address that goes with an IPv4 one of a node, a pod or a client: fd00:192:0:2::10 with
// 192.0.2.10. Its network is the /64.
func sister(addr netip.Addr) netip.Addr {
	a := addr.As4()
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d:%d::%d", a[0], a[1], a[2], a[3]))
}

// Host parts of addresses, the same in each network.
const (
	gatewayHost     = 1   // the node, in its pod network; the guest, in the uplink
	nodeHost        = 10  // the first node, in the client network and the uplink
	firstPodHost    = 10  // of a node's pod network
	firstClientHost = 100 // the first client, in the client network
	clients         = 10  // two for each node of five
)

// Cluster is a cluster that is up: nodes in namespaces, and an API server that knows of them.
type Cluster struct {
	Lab    *lab.Lab // for load: [lab.Lab.Start], [lab.Lab.Hold], [lab.Lab.Flow]
	Nodes  []*Node
	Client *lab.Namespace // outside, on the nodes' network
	// ClientAddrs are the client's addresses; IPVS tells clients apart by nothing else.
	ClientAddrs []netip.Addr

	Config  *rest.Config // an administrator's
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface

	t       *testing.T
	folder  string // of the guest's own files
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	kubelet *kubelet
}

// Node is a namespace that is a node, with an object of its name.
type Node struct {
	*lab.Namespace
	Addr    netip.Addr   // on the clients' network: its InternalIP
	Pods    netip.Prefix // its pod network
	Gateway netip.Addr   // its address there, which its pods have as their default route
}

// New gives the test a cluster of its own, with no object of another test in it, and removes it when
// the test ends. It has the nodes mast01, node01 and node02, and more when they are named. A cluster at a time.
func New(t *testing.T, more ...string) *Cluster {
	t.Helper()
	Require(t)
	began := time.Now()
	require.NoError(t, ask("/fresh"))
	fresh := time.Since(began)
	c := &Cluster{t: t, Lab: lab.Bare(), folder: t.TempDir()}
	t.Cleanup(func() { require.NoError(t, c.Lab.Close()) })
	require.NoError(t, c.connect())
	require.NoError(t, c.layNetwork(append([]string{Master, "node01", "node02"}, more...)...))
	var err error
	c.kubelet, err = startKubelet(c)
	require.NoError(t, err)
	t.Cleanup(c.kubelet.stop)
	for _, n := range c.Nodes {
		require.NoError(t, c.registerNode(n))
	}
	t.Logf("a fresh control plane after %v, the nodes up %v later", fresh.Round(10*time.Millisecond), (time.Since(began) - fresh).Round(10*time.Millisecond))
	return c
}

// In is the cluster for a part of the test: what it starts ends with the part.
func (c *Cluster) In(t *testing.T) *Cluster {
	part := *c
	part.t = t
	return &part
}

// connect makes an administrator's clients.
func (c *Cluster) connect() (err error) {
	if c.Config, err = readKubeconfig(handed("admin.kubeconfig")); err != nil {
		return err
	}
	typed := rest.CopyConfig(c.Config)
	typed.ContentType = "application/vnd.kubernetes.protobuf" // cheaper, and the guest is slow
	kube, err := kubernetes.NewForConfig(typed)
	if err != nil {
		return err
	}
	c.Kube = kube
	c.mapper = newMapper(kube.Discovery())
	c.Dynamic, err = dynamic.NewForConfig(c.Config)
	return err
}

// handed is the path of a file that the host's half left.
func handed(name string) string { return filepath.Join(os.Getenv(handover), name) }

// Binary is the path of a program of the control plane: kube-proxy, kubectl.
func Binary(name string) string { return filepath.Join(os.Getenv(binariesVariable), name) }

// layNetwork makes nodes and clients on one network, and the nodes' way to the API server.
func (c *Cluster) layNetwork(names ...string) error {
	segment, err := c.Lab.Add("segment")
	if err != nil {
		return err
	}
	if err := makeUplink(); err != nil {
		return err
	}
	var ports []string
	for i, name := range names {
		n, err := c.makeNode(i, name, segment)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, n)
		ports = append(ports, name)
	}
	for _, n := range c.Nodes {
		for _, other := range c.Nodes {
			if n != other {
				pods := netip.PrefixFrom(sister(other.Pods.Addr()), 64)
				if err := errors.Join(n.Route(other.Pods, other.Addr, "eth0"), n.Route(pods, sister(other.Addr), "eth0")); err != nil {
					return err
				}
			}
		}
	}
	if c.Client, err = c.Lab.Add("client"); err != nil {
		return err
	}
	if err := lab.Join(c.Client, "eth0", segment, "client"); err != nil {
		return err
	}
	for i := range clients {
		addr := host(ClientNetwork, firstClientHost+i)
		c.ClientAddrs = append(c.ClientAddrs, addr.Addr())
		if err := c.Client.Address("eth0", addr, netip.PrefixFrom(sister(addr.Addr()), 64)); err != nil {
			return err
		}
	}
	return errors.Join(c.Client.ClientSysctls(), segment.Bridge("br0", append(ports, "client")...), c.nameNodes())
}

func (c *Cluster) makeNode(i int, name string, segment *lab.Namespace) (*Node, error) {
	ns, err := c.Lab.Add(name)
	if err != nil {
		return nil, err
	}
	addr := host(ClientNetwork, nodeHost+i)
	n := &Node{Namespace: ns, Addr: addr.Addr(), Pods: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24)}
	n.Gateway = host(n.Pods, gatewayHost).Addr()
	uplink := host(uplinkNetwork, nodeHost+i)
	c.t.Cleanup(func() { leaveUplink(name) })
	if err := errors.Join(
		lab.Join(ns, "eth0", segment, name),
		ns.Address("eth0", addr, netip.PrefixFrom(sister(addr.Addr()), 64)),
		ns.Dummy("cni0", netip.PrefixFrom(n.Gateway, 32), netip.PrefixFrom(sister(n.Gateway), 128)),
		ns.Sysctl("net/ipv4/ip_forward", "1"), // as CNI plug-ins do
		ns.Sysctl("net/ipv6/conf/all/forwarding", "1"),
		joinUplink(ns, name, uplink, n.Pods),
	); err != nil {
		return nil, err
	}
	gateway := host(uplinkNetwork, gatewayHost).Addr()
	// By default, as real nodes have it: without a route to a ClusterIP none can be reached from the node.
	return n, ns.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway, "uplink")
}

// nameNodes lets the nodes' names stand for their addresses. It writes the guest's /etc/hosts, which
// is thrown away with the guest.
func (c *Cluster) nameNodes() error {
	const hosts = "/etc/hosts"
	text, err := os.ReadFile(hosts)
	if err != nil {
		return err
	}
	more := slices.Clone(text)
	for _, n := range c.Nodes {
		more = fmt.Appendf(more, "%v %s\n", n.Addr, n.Name())
	}
	c.t.Cleanup(func() { _ = os.WriteFile(hosts, text, 0o644) })
	return os.WriteFile(hosts, more, 0o644)
}

// Node gives the node of the name.
func (c *Cluster) Node(name string) *Node {
	n := c.find(name)
	require.NotNil(c.t, n, "there is no node %s", name)
	return n
}

// host is address number n of the network, with the network's length.
func host(network netip.Prefix, n int) netip.Prefix {
	b := network.Addr().As4()
	b[3] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(b), network.Bits())
}

// run runs a program in the guest itself, or on the host.
func run(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
