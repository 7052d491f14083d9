// Package ipvsadm prints an IPVS table byte for byte as `ipvsadm -L` of ipvsadm 1.31 does.
//
// [List] has the flags of its listing as fields of [Options]; [ListTimeouts], [ListDaemons] and
// [ListConnections] are its --timeout, --daemon and -c. It reads no kernel and parses no arguments: which
// flags may be given together is the command's business.
//
// The invariant is the comparison test: for any table and any flags the bytes are the program's own,
// its quirks included. Those are: a sort whose comparison overflows (see sort.go), names of IPv4 servers
// cut to 28 and 33 bytes, marks and weights printed as signed numbers, and --rate that scales some
// columns and not others. Only the Colour column is ours, and it is there only when asked for.
//
// When a difference shows up: `diff <(pointsman list …) <(ipvsadm -L …)` in the namespace; without -n
// the names come from the resolver, so compare with -n first.
package ipvsadm
