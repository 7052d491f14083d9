package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	hostFromGuest = "10.0.2.2" // the host, by QEMU's user network
	startPatience = 4 * time.Minute
)

// controllers are those of kube-controller-manager that run: the ones between a Deployment and its
// endpoints, and those that keep objects in order. Of nodes there is none: their stand-in says what
// they are, and nothing else does.
var controllers = []string{
	"deployment-controller", "replicaset-controller", "daemonset-controller", "disruption-controller",
	"endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller",
	"namespace-controller", "serviceaccount-controller", "serviceaccount-token-controller",
	"root-ca-certificate-publisher-controller", "clusterrole-aggregation-controller",
	"garbage-collector-controller", "pod-garbage-collector-controller",
}

// auditLog is the file in which the API server writes who asked for what.
const auditLog = "audit.log"

// auditPolicy has ServiceAccounts of the daemon's namespace written down, whatever they ask for. A watch is
// told when it begins: it may never end. Of a VirtualServer's status what was written is told too: when it was decided
// is to be known to the millisecond.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  userGroups: ["system:serviceaccounts:pointsman-system"]
  verbs: [update]
  resources: [{group: pointsman.io, resources: [virtualservers/status]}]
- level: Metadata
  userGroups: ["system:serviceaccounts:pointsman-system"]
- level: None
`

// ControlPlane is etcd, kube-apiserver and kube-controller-manager, on the host's loopback.
type ControlPlane struct {
	folder   string // kubeconfigs, keys, logs and etcd's data
	binaries string
	ports    struct{ etcd, peer, api int }
	kube     kubernetes.Interface

	etcd, api, manager *process
}

// NewControlPlane prepares a control plane of the binaries in the folder; nothing runs yet.
func NewControlPlane(folder, binaries string) (*ControlPlane, error) {
	c := &ControlPlane{folder: folder, binaries: binaries}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	c.ports.etcd, c.ports.peer, c.ports.api = ports[0], ports[1], ports[2]
	if err := c.writeFiles(); err != nil {
		return nil, fmt.Errorf("preparing the control plane: %w", err)
	}
	config, err := readKubeconfig(c.path("host.kubeconfig"))
	if err != nil {
		return nil, err
	}
	c.kube, err = kubernetes.NewForConfig(config)
	return c, err
}

func (c *ControlPlane) path(name string) string { return filepath.Join(c.folder, name) }

// writeFiles writes keys, certificates and kubeconfigs. They are the same for each start.
func (c *ControlPlane) writeFiles() error {
	ca, err := newAuthority(c.folder)
	if err != nil {
		return err
	}
	addrs := []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(hostFromGuest), net.IPv4(10, 96, 0, 1)}
	if err := errors.Join(ca.accountKey(), ca.serving("apiserver", addrs, "localhost", "kubernetes.default.svc"),
		os.WriteFile(c.path("audit-policy.yaml"), []byte(auditPolicy), 0o644)); err != nil {
		return err
	}
	for _, k := range []struct {
		file, host, user string
		groups           []string
	}{
		{"host.kubeconfig", "127.0.0.1", "host", []string{"system:masters"}},
		{"admin.kubeconfig", hostFromGuest, "admin", []string{"system:masters"}},
		{"kube-proxy.kubeconfig", hostFromGuest, "system:kube-proxy", nil},
	} {
		cert, key, err := ca.client(k.user, k.groups...)
		if err != nil {
			return err
		}
		server := fmt.Sprintf("https://%s:%d", k.host, c.ports.api)
		user := api.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
		if err := writeKubeconfig(c.path(k.file), server, ca.pem, user); err != nil {
			return err
		}
	}
	return nil
}

// Start starts all of it, with no objects, and waits until its controllers work.
func (c *ControlPlane) Start() error {
	etcd := fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcd)
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.ports.peer)
	var err error
	if c.etcd, err = spawn(filepath.Join(c.binaries, "etcd"), c.path("etcd.log"),
		"--data-dir="+c.path("etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		"--unsafe-no-fsync", "--log-level=warn"); err != nil {
		return err
	}
	if err := c.etcd.await(startPatience, func() error { return healthy(etcd + "/health") }); err != nil {
		return err
	}
	if err := c.startAPIServer(); err != nil {
		return err
	}
	return c.startManager()
}

// startManager starts the controllers and waits until they work.
func (c *ControlPlane) startManager() (err error) {
	if c.manager, err = spawn(filepath.Join(c.binaries, "kube-controller-manager"), c.path("kube-controller-manager.log"),
		"--kubeconfig="+c.path("host.kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--controllers="+strings.Join(controllers, ","),
		"--service-account-private-key-file="+c.path("sa.key"), "--root-ca-file="+c.path("ca.crt"),
		"--kube-api-qps=500", "--kube-api-burst=1000"); err != nil {
		return err
	}
	return c.manager.await(startPatience, func() error {
		_, err := c.kube.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(context.Background(), "default", metav1.GetOptions{})
		return err
	})
}

// Resume starts again what [ControlPlane.Interrupt] ended; what runs is left alone.
func (c *ControlPlane) Resume() error {
	if c.api != nil {
		return nil
	}
	if err := c.startAPIServer(); err != nil {
		return err
	}
	return c.startManager()
}

func (c *ControlPlane) startAPIServer() (err error) {
	c.api, err = spawn(filepath.Join(c.binaries, "kube-apiserver"), c.path("kube-apiserver.log"),
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.ports.etcd),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ports.api),
		"--advertise-address="+hostFromGuest, // what the Service kubernetes leads to
		"--tls-cert-file="+c.path("apiserver.crt"), "--tls-private-key-file="+c.path("apiserver.key"),
		"--client-ca-file="+c.path("ca.crt"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.path("sa.pub"), "--service-account-signing-key-file="+c.path("sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112", "--allow-privileged=true",
		"--audit-policy-file="+c.path("audit-policy.yaml"), "--audit-log-path="+c.path(auditLog),
		// It taints each new node until the node lifecycle controller, which does not run, finds it ready.
		"--disable-admission-plugins=TaintNodesByCondition")
	if err != nil {
		return err
	}
	return c.api.await(startPatience, func() error {
		return c.kube.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
	})
}

// Interrupt ends the API server as a crash does, and the controllers with it: with the leader election
// that they have in a cluster they end by themselves when they cannot renew their lease.
func (c *ControlPlane) Interrupt() {
	c.manager.kill()
	c.api.kill()
	c.manager, c.api = nil, nil
}

// Stop ends all of it and forgets its objects.
func (c *ControlPlane) Stop() error {
	c.Interrupt()
	c.etcd.kill()
	c.etcd = nil
	return errors.Join(os.RemoveAll(c.path("etcd")), os.RemoveAll(c.path(auditLog)))
}

// tails is the end of what each program printed.
func (c *ControlPlane) tails(lines int) string {
	var all strings.Builder
	for _, p := range []*process{c.etcd, c.api, c.manager} {
		if p != nil {
			fmt.Fprintf(&all, "--- %s, the end of %s\n%s\n", p.name, p.log, p.tail(lines))
		}
	}
	return all.String()
}

func healthy(url string) error {
	response, err := (&http.Client{Timeout: 2 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// freePorts finds ports of the loopback that nobody uses, below the range that the kernel gives to
// clients: the API server must find its port free after an outage too.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close() // not before all are found, so that they differ
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports of 127.0.0.1 between 20000 and 32000")
}
