// Package cluster holds the tests in a cluster, and the cluster under them: a real etcd, API server
// and controllers, and nodes that are network namespaces on a real kernel.
//
// How it fits together. `go test ./e2e/cluster` runs twice. On the host, [Main] collects the tests
// that want a cluster (TestCluster…), has scripts/controlplane build the control plane (once), starts
// it on the host's loopback at native speed, and runs the same test binary in a guest (scripts/vm),
// which reaches the host as 10.0.2.2. In the guest [New] lays the network, starts what stands in for
// kubelet and scheduler, and registers the nodes; each test gets a control plane without objects.
//
//	host   etcd, kube-apiserver, kube-controller-manager; "stop the API server", asked by HTTP
//	guest  uplinks ── mast01, node01, node02 ── segment ── client 192.0.2.100…
//	                  │ 192.0.2.10, .11, .12; routes to each other's pods
//	                  └ a namespace a Pod, 10.244.1.0/24, 10.244.2.0/24, 10.244.3.0/24
//
// Nodes, pods and clients have an IPv6 address beside each IPv4 one, see sister. Pods are real listeners (package lab) that answer with their label version, or with the annotation
// [SaysAnnotation]; [ReadyAnnotation] "false" makes one not ready. A deleted Pod serves until its
// grace is over or [Cluster.EndPod]. A Pod on the host's network listens on nothing by itself: the
// test starts what is to run there, with [Cluster.Run], as with any daemon of a node.
//
// It is not a test of kubelet, of scheduling or of CNI. No image is pulled, no probe is made, no
// volume is mounted, and nothing but the stand-in says that a node is ready.
//
// A caller may rely on this: Deployments, ReplicaSets, DaemonSets and EndpointSlices are the real
// controllers' work and RBAC is on; connections are real; and when the run ends, in whatever way, the
// control plane and the guest end with it.
//
// To look inside while it runs: the host's half prints a kubectl command line that works on the host.
// A failed test prints the end of what its daemons and the control plane said. The kernel is chosen
// with POINTSMAN_TEST_KERNEL; scripts/test cluster runs all of it on two, side by side.
//
// A test here waits, with [Patience], for what must come, and asserts no time that something took: it
// has to pass on a machine that is several times slower and does other things meanwhile.
package cluster
