// Package lab is a network laboratory in one kernel: clients, a node and pod networks, each a named
// network namespace of its own, joined by veth pairs, with backends that say their colour and load
// that writes down what became of every connection.
//
// It is not a simulation of IPVS or of pointsman. Backends are real listeners and clients real
// sockets; whatever balances between them is set up by the caller in the node's namespace, by hand
// or by the daemon. The lab configures the clients and the pods only, and leaves the node's
// forwarding, its virtual servers and its rules to whom it tests.
//
// A caller may rely on this: a [Report] holds every connection that the load began, whatever became
// of it, so a connection that is not in it was not tried; and [Lab.Close] ends every process that was
// started in the lab and leaves no namespace, device or file behind.
//
// To look inside while it runs: `ip netns exec mast01 ipvsadm -Ln`, `ip netns exec client …`.
package lab
