// Package sync makes the kernel right: it turns what is declared into what each virtual server
// should hold ([Desire]), finds the ops that lead there ([Plan]), applies them and reads the kernel
// back until nothing is left to do ([Reconciler]).
//
// It is not where a colour is chosen (package rollout) nor where netlink is spoken (ipvs, nft, node).
// A weight is decided in desire.go, turned into an op in plan.go and written by [Reconciler.pass].
//
// A caller may rely on this: a plan is safe after each of its ops, for at each of them the process
// may die. It never takes the last usable real server from a virtual server that is to have one,
// never cuts a connection that no drain deadline says to cut, and touches only what the [Ledger]
// knows as ours.
//
// When it misbehaves: `pointsman plan` prints the ops that a pass would run now, and state.json and
// status.json in the state directory are what the daemon knew at its last pass.
package sync
