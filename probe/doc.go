// Package probe finds out whether a colour works, before users are on it and while they are: [Run] tests one
// endpoint from this node as a [v1alpha1.Probe] says, [All] many of them, a [Prober] again and again; [Value] asks
// Prometheus; [Post] calls a hook; [Signs] tells of what the kernel counted that real servers do not serve.
//
// It decides nothing: whether a failure blocks a switch or undoes it is rollout's. It retries nothing and logs
// nothing, and knows neither colours nor IPVS.
//
// What a caller may rely on: nothing here outlasts its context; no answer of an endpoint, however long or slow, costs
// more than a bounded read; what an error says is made for an operator, and its Seen holds nothing that changes by
// itself (no ephemeral port, no clock), so that two passes with the same outcome compare equal.
//
// To look inside: every test is one plain connection from this node, so nc, curl -k, openssl s_client and grpcurl on
// the node show what it saw.
package probe
