// Package e2e holds the tests of the whole program on a real kernel: the built binary in a node's
// network namespace, its manifests on disk, real clients and real backends around it (package lab).
//
// It is not where rules are tested one by one: each package has its own tests for that. What is here
// is what a user relies on, seen from outside. The tests read the kernel with the field's own tools
// and share no code with the program, so they cannot be wrong in the same way.
//
// When a test goes red: the daemon's log is printed with it. To look around by hand, HOLD=1 make demo.
package e2e
