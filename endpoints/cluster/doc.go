// Package cluster is the source of package endpoints that watches a Kubernetes API server: VirtualServers,
// the Services and EndpointSlices labelled for pointsman, and of the Pods that carry a colour label that
// label alone.
//
// It is not a client of status: it writes nothing to the API server. It joins nothing either; that is
// [endpoints.Resolver].
//
// A caller may rely on this. A Snapshot comes from objects that were all there: before every watch that
// is needed has been filled there is none, and a VirtualServer that needs another Pod label or Service
// stays as it was until that is known. An API server that is gone, or refuses, takes nothing away: the
// last Snapshot stays, over restarts and reboots too (cluster-snapshot.json in the state directory), and
// what comes after is published when all watches have caught up, since an EndpointSlice that arrived
// without its Pods would have no colour.
//
// When it misbehaves, read Snapshot.Errors (`pointsman status` prints them), then compare the file in the
// state directory with `kubectl get` of the same objects.
package cluster
