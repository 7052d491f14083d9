package nft

import (
	"time"

	"golang.org/x/sys/unix"
)

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (linux/membarrier.h).
const membarrierGlobal = 1

// underWay is longer than a packet is between two hooks, where the kernel doesn't tell.
const underWay = 50 * time.Millisecond

// awaitPackets returns when every packet that was in a netfilter hook at the time of the call has left it.
// Rules are run, and IPVS's hooks behind them, within one read-side section of RCU (nf_hook of
// linux/netfilter.h), and this command is the kernel's one call that waits for these on anybody's behalf:
// it is a synchronize_rcu() (kernel/sched/membarrier.c). It is refused where processors run without a
// tick (nohz_full), and seccomp may refuse it.
func awaitPackets() {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		time.Sleep(underWay)
	}
}
