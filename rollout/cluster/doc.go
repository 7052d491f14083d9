// Package cluster is where the nodes meet: each node's daemon reports what its kernel was read back to
// serve, and one of them, elected, makes the status of every VirtualServer of the reports.
//
// The decision which colour gets a VirtualServer's new connections is package rollout's; here it is asked, over what live
// nodes reported, and status.active is written, which is the commit. Nodes follow the status by their own watch (package
// endpoints/cluster), so when the API server or the coordinator is gone they stay with the last decision.
//
// A caller may rely on this: nothing but Leases is written while nothing changes, over restarts too;
// Post and Observe never block; a status is only ever made of reports that were read from the API
// server; and two coordinators at once (a leader that was cut off and does not know yet) do no harm, since
// each write names the version that it was made from.
//
// When it misbehaves: `kubectl get nodereport NODE -o yaml` is what a node says, `kubectl -n
// pointsman-system get lease` who is alive and who leads (coordinator), and [Aggregate] all of what
// comes between the two and the status. Healthy of a Reporter or Coordinator says what it cannot do now. It
// belongs into a metric or readiness, not into a liveness probe: an API server that is gone is no
// reason to restart a daemon.
package cluster

import rbacv1 "k8s.io/api/rbac/v1"

// ClusterRules is what the package does in the whole cluster, exactly; the tests hold it to that.
var ClusterRules = []rbacv1.PolicyRule{
	{APIGroups: []string{"pointsman.io"}, Resources: []string{"virtualservers"}, Verbs: []string{"list", "watch"}},
	{APIGroups: []string{"pointsman.io"}, Resources: []string{"virtualservers/status"}, Verbs: []string{"update"}},
	{APIGroups: []string{"pointsman.io"}, Resources: []string{"nodereports"}, Verbs: []string{"get", "list", "watch", "create"}},
	{APIGroups: []string{"pointsman.io"}, Resources: []string{"nodereports/status"}, Verbs: []string{"update"}},
	{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},                  // not used when Options.NodeUID is given
	{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create"}}, // no series, so no patch
}

// NamespaceRules is what the package does in its own namespace.
var NamespaceRules = []rbacv1.PolicyRule{
	{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "list", "watch", "create", "update"}},
}
