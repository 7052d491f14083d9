package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Config is what a laboratory is made of. The zero value is the scenario's: one client, the node
// mast01, two pod networks, and ten backends each of v1 and v2.
type Config struct {
	// Prefix begins the name of every namespace, so that two laboratories fit on one machine.
	Prefix string
	Node   string // the node's namespace and host name; default mast01
	// Clients is how many addresses the client namespace has; default 1. The kernel tells clients
	// apart by address only.
	Clients  int
	Networks []netip.Prefix // pod networks, IPv4; default 10.244.140.0/24 and 10.244.196.0/24
	Colours  []Colour       // default ten each of v1 and v2
	Port     uint16         // of the backends; default 80
	UDP      bool           // backends answer on UDP too
	SCTP     bool           // backends take connections of SCTP too
	// DualStack gives every address an IPv6 sister and every backend an IPv6 listener.
	DualStack bool
	// ClientPod adds a pod that is a client: a pod network without backends, 10.244.7.0/24.
	ClientPod bool
}

// Colour is a number of backends that are one version of the workload.
type Colour struct {
	Name     string
	Backends int
}

func (c *Config) setDefaults() {
	if c.Node == "" {
		c.Node = "mast01"
	}
	if c.Clients == 0 {
		c.Clients = 1
	}
	if c.Networks == nil {
		c.Networks = []netip.Prefix{netip.MustParsePrefix("10.244.140.0/24"), netip.MustParsePrefix("10.244.196.0/24")}
	}
	if c.Colours == nil {
		c.Colours = []Colour{{"v1", 10}, {"v2", 10}}
	}
	if c.Port == 0 {
		c.Port = 80
	}
}

var (
	clientNetwork  = netip.MustParsePrefix("192.0.2.0/24")
	clientNetwork6 = netip.MustParsePrefix("2001:db8:2::/64")
	podNetwork     = netip.MustParsePrefix("10.244.7.0/24")
)

// Host parts of addresses, the same in each network.
const (
	gatewayHost      = 1   // the node, in a pod network
	podHost          = 5   // the pod that is a client
	nodeHost         = 10  // the node, in the client network
	firstBackendHost = 76  // the first backend in each pod network, as in the scenario
	firstClientHost  = 100 // the first client
)

// Lab is a laboratory that is up.
type Lab struct {
	Config Config

	Client *Namespace
	Node   *Namespace
	Pods   []*Namespace // one a pod network, each with all of its pods
	Pod    *Namespace   // the pod that is a client; nil without Config.ClientPod

	NodeAddr    netip.Addr   // the node's, on the client link
	ClientAddrs []netip.Addr // the clients'
	PodAddr     netip.Addr   // of the pod that is a client
	// The IPv6 sisters of the above; zero without Config.DualStack.
	NodeAddr6    netip.Addr
	ClientAddrs6 []netip.Addr
	Backends     []*Backend // by colour as configured, then by number

	all []*Namespace

	mu   sync.Mutex
	runs []func() // stop what was started in the lab
}

// New makes a laboratory with its backends running. What was made is removed again when it fails.
func New(config Config) (*Lab, error) {
	config.setDefaults()
	l := &Lab{Config: config}
	for _, step := range []func() error{l.makeNode, l.makeClients, l.makePods, l.makeClientPod, l.makeBackends, l.makeNames} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("making the lab: %w", err), l.Close())
		}
	}
	return l, nil
}

// Close stops everything that runs in the lab and removes it.
func (l *Lab) Close() error {
	l.mu.Lock()
	runs := l.runs
	l.runs = nil
	l.mu.Unlock()
	for _, stop := range runs {
		stop()
	}
	var errs []error
	for _, b := range l.Backends {
		b.Stop()
	}
	for _, n := range l.all {
		errs = append(errs, n.close())
	}
	l.all = nil
	return errors.Join(errs...)
}

// onClose has stop called when the lab closes.
func (l *Lab) onClose(stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = append(l.runs, stop)
}

// Colour gives the backends of one colour.
func (l *Lab) Colour(name string) []*Backend {
	var backends []*Backend
	for _, b := range l.Backends {
		if b.Colour == name {
			backends = append(backends, b)
		}
	}
	return backends
}

func (l *Lab) namespace(name string) (*Namespace, error) {
	n, err := newNamespace(l.Config.Prefix + name)
	if err == nil {
		l.all = append(l.all, n)
	}
	return n, err
}

func (l *Lab) makeNode() (err error) {
	l.Node, err = l.namespace(l.Config.Node)
	return err
}

func (l *Lab) makeClients() (err error) {
	if l.Client, err = l.namespace("client"); err != nil {
		return err
	}
	if err := join(l.Node, "eth0", l.Client, "eth0"); err != nil {
		return err
	}
	networks := []netip.Prefix{clientNetwork}
	if l.Config.DualStack {
		networks = append(networks, clientNetwork6)
	}
	for _, network := range networks {
		node, err := nth(network, nodeHost)
		if err != nil {
			return err
		}
		if err := l.Node.address("eth0", node); err != nil {
			return err
		}
		clients := make([]netip.Prefix, l.Config.Clients)
		for i := range clients {
			if clients[i], err = nth(network, firstClientHost+i); err != nil {
				return err
			}
		}
		if err := l.Client.address("eth0", clients...); err != nil {
			return err
		}
		if network.Addr().Is4() {
			l.NodeAddr, l.ClientAddrs = node.Addr(), bare(clients)
		} else {
			l.NodeAddr6, l.ClientAddrs6 = node.Addr(), bare(clients)
		}
	}
	return l.Client.clientSysctls()
}

// clientSysctls make source ports last: thousands of connections a minute from one address leave as
// many in TIME_WAIT, and each would hold its port for a minute.
func (n *Namespace) clientSysctls() error {
	return errors.Join(
		n.Sysctl("net/ipv4/ip_local_port_range", "10000 65535"),
		n.Sysctl("net/ipv4/tcp_tw_reuse", "1"))
}

func (l *Lab) makePods() error {
	for i, network := range l.Config.Networks {
		n, err := l.podNetwork(fmt.Sprintf("pods%d", i+1), network)
		if err != nil {
			return err
		}
		l.Pods = append(l.Pods, n)
		// A burst of a thousand connections is not to fail for the backends' own queues.
		if err := errors.Join(
			n.Sysctl("net/core/somaxconn", "4096"),
			n.Sysctl("net/ipv4/tcp_max_syn_backlog", "8192")); err != nil {
			return err
		}
	}
	return nil
}

// podNetwork makes a pod network behind the node; its default route is the node.
func (l *Lab) podNetwork(name string, network netip.Prefix) (*Namespace, error) {
	n, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	if err := join(l.Node, name, n, "eth0"); err != nil {
		return nil, err
	}
	networks := []netip.Prefix{network}
	if l.Config.DualStack {
		networks = append(networks, sister(network))
	}
	for _, network := range networks {
		gateway, err := nth(network, gatewayHost)
		if err != nil {
			return nil, err
		}
		if err := l.Node.address(name, gateway); err != nil {
			return nil, err
		}
		// The pods' device needs an address before it can have a route: the network's second,
		// which no pod uses.
		own, err := nth(network, gatewayHost+1)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(n.address("eth0", own), n.route(gateway.Addr())); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (l *Lab) makeClientPod() (err error) {
	if !l.Config.ClientPod {
		return nil
	}
	if l.Pod, err = l.podNetwork("pod", podNetwork); err != nil {
		return err
	}
	addr, err := nth(podNetwork, podHost)
	if err != nil {
		return err
	}
	l.PodAddr = addr.Addr()
	return errors.Join(l.Pod.address("eth0", addr), l.Pod.clientSysctls())
}

// makeNames lets the node's name stand for its address, for `ipvsadm -L`. It writes the guest's
// /etc/hosts, which is thrown away with the guest; a real host's is left alone.
func (l *Lab) makeNames() error {
	if os.Getenv("POINTSMAN_VM") == "" {
		return nil
	}
	const hosts = "/etc/hosts"
	text, err := os.ReadFile(hosts)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%v %s\n", l.NodeAddr, l.Config.Node)
	if err := os.WriteFile(hosts, append(slices.Clone(text), line...), 0o644); err != nil {
		return err
	}
	l.onClose(func() { _ = os.WriteFile(hosts, text, 0o644) })
	return nil
}

// sister is the IPv6 network that goes with an IPv4 pod network.
func sister(network netip.Prefix) netip.Prefix {
	a := network.Masked().Addr().As4()
	text := fmt.Sprintf("fd00:%d:%d:%d:%d::/80", a[0], a[1], a[2], a[3])
	return netip.MustParsePrefix(text)
}

func bare(prefixes []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, len(prefixes))
	for i, p := range prefixes {
		addrs[i] = p.Addr()
	}
	return addrs
}
