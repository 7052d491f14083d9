package nft

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (linux/membarrier.h).
const membarrierGlobal = 1

// What is longer than a packet is between two netfilter hooks, where the kernel does not tell.
const (
	underWay = 50 * time.Millisecond
	// On one processor it is a process that the kernel interrupted in the middle of sending, and that goes on in
	// its turn: within a slice of the scheduler's (less than one millisecond) for each that wants to run.
	interrupted = 10 * time.Millisecond
)

// awaitPackets returns when every packet that was in a netfilter hook at the time of the call has left it.
//
// Rules, and IPVS's hooks behind them, are run within one read-side section of RCU (nf_hook of
// linux/netfilter.h), and this command is the kernel's one call that waits for these on anybody's behalf: it is
// a synchronize_rcu() (kernel/sched/membarrier.c). It is refused where processors run without a tick
// (nohz_full), seccomp may refuse it, and with one processor it returns at once, which a kernel that interrupts its own
// work for another process's (PREEMPT) makes too early.
func awaitPackets() {
	switch _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); {
	case errno != 0:
		time.Sleep(underWay)
	case runtime.NumCPU() == 1:
		time.Sleep(interrupted)
	}
}
