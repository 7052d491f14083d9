// Package ipvs reads and writes the kernel's IPVS table, as comparable values.
//
// A [Conn] belongs to one network namespace: [Conn.Read] gives all of its virtual servers with their
// real servers, [Conn.Apply] runs a list of ops in few system calls and says for each what became of
// it. An [Op] prints as the ipvsadm command that it equals. [Fake] behaves like a Conn, in memory;
// the same tests run against both.
//
// It does not decide anything, retries no write, loads no module and logs nothing. It does not know
// colours, nor which virtual servers are ours.
//
// What a caller may rely on: each virtual server's list of real servers is as it was at one moment
// of the read (the table as a whole is not: two lists may be of two moments), the list of virtual
// servers too, and an op for which Apply reports nothing is in the kernel.
//
// github.com/moby/ipvs is used for its constants and as the referee of the tests, not to read and
// write: it cuts weights and counters, leaves out tunnels and persistence engines, waits for ever,
// takes a kernel without IPVS for an empty table, and makes one round trip for each op.
//
// Load the scheduler's module (ip_vs_<scheduler>) before it is first named in an op. The kernel would
// load it by itself, but with its IPVS lock held: for lblc and lblcr that deadlocks with a network
// namespace that is being destroyed at the time, and every other user of namespaces and devices with it
// (seen on 6.1).
//
// To look inside: ipvsadm -Ln in the same namespace (ip netns exec), `dmesg` for the reasons that
// the kernel gives for EINVAL and ENOENT, strace -e trace=network to see the messages. With nlmon,
// `ip link add nlmon0 type nlmon` and tcpdump record them.
package ipvs
