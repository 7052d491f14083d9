package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/internal/lab"
)

// sandbox is a Pod that runs: a namespace behind its node, and a listener for each of its ports. A
// Pod on the host's network has the node's namespace and address, and no listeners: what listens there
// is the test's to start.
type sandbox struct {
	lab      *lab.Lab
	node     *Node
	ns       *lab.Namespace // nil on the host's network
	link     string         // the node's end
	addr     netip.Addr
	backends []*lab.Backend
	started  time.Time

	mu    sync.Mutex
	asked time.Time // to terminate
	told  bool      // to end now
}

// start runs the Pod on the node.
func (k *kubelet) start(node *Node, pod *corev1.Pod) (*sandbox, error) {
	s := &sandbox{lab: k.c.Lab, node: node, addr: node.Addr, started: time.Now()}
	if !pod.Spec.HostNetwork {
		if err := k.attach(s, pod); err != nil {
			s.stop()
			k.mu.Lock()
			delete(k.used, s.addr.String())
			k.mu.Unlock()
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running[pod.UID] = s
	k.names[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = pod.UID
	return s, nil
}

func (k *kubelet) attach(s *sandbox, pod *corev1.Pod) (err error) {
	k.mu.Lock()
	s.addr, err = k.address(s.node)
	k.links++
	s.link = fmt.Sprintf("pod%d", k.links)
	k.mu.Unlock()
	if err != nil {
		return err
	}
	if s.ns, err = k.c.Lab.Add(pod.Namespace + "." + pod.Name); err != nil {
		return err
	}
	if err := errors.Join(
		lab.Attach(s.node.Namespace, s.link, s.ns, s.addr, s.node.Gateway),
		lab.AlsoAttach(s.node.Namespace, s.link, s.ns, sister(s.addr), sister(s.node.Gateway)),
		s.ns.ClientSysctls(),
		// A burst of connections is not to fail for the listener's own queues.
		s.ns.Sysctl("net/core/somaxconn", "4096"),
		s.ns.Sysctl("net/ipv4/tcp_max_syn_backlog", "8192"),
	); err != nil {
		return err
	}
	for port, udp := range ports(pod) {
		b := lab.NewBackend(says(pod), s.ns, netip.AddrPortFrom(s.addr, port), udp)
		b.Addr6 = netip.AddrPortFrom(sister(s.addr), port)
		if err := b.Start(); err != nil {
			return err
		}
		s.backends = append(s.backends, b)
	}
	return nil
}

// address finds the node's next free pod address. One that was given back comes last, as with CNI's
// host-local: what still points at it is to find nobody there.
func (k *kubelet) address(n *Node) (netip.Addr, error) {
	const last = 254
	for range last {
		at := max(k.next[n], firstPodHost)
		k.next[n] = at + 1
		if k.next[n] > last {
			k.next[n] = 0
		}
		addr := host(n.Pods, at).Addr()
		if !k.used[addr.String()] {
			k.used[addr.String()] = true
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("the pod network %v is full", n.Pods)
}

// ports are the Pod's container ports, and which of them are UDP too.
func ports(pod *corev1.Pod) map[uint16]bool {
	all := map[uint16]bool{}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			all[uint16(port.ContainerPort)] = all[uint16(port.ContainerPort)] || port.Protocol == corev1.ProtocolUDP
		}
	}
	return all
}

func says(pod *corev1.Pod) string {
	for _, text := range []string{pod.Annotations[SaysAnnotation], pod.Labels["version"]} {
		if text != "" {
			return text
		}
	}
	return pod.Name
}

// left is how much of the grace is left, which begins with the first call.
func (s *sandbox) left(grace time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked.IsZero() {
		s.asked = time.Now()
	}
	if s.told {
		return 0
	}
	return grace - time.Since(s.asked)
}

// tell ends the grace.
func (s *sandbox) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = true
}

// stop cuts what is open and removes the namespace.
func (s *sandbox) stop() {
	for _, b := range s.backends {
		b.Stop()
	}
	if s.ns == nil {
		return
	}
	if err := errors.Join(s.node.Unlink(s.link), s.lab.Remove(s.ns)); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
	}
}
