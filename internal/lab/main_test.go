package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// up makes a laboratory for the test.
func up(t *testing.T, config Config) *Lab {
	t.Helper()
	kerneltest.Require(t)
	l, err := New(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// balance does by hand, with the field's own tools, what pointsman is for: one virtual server at
// 30080 of the node's address with the weights of the colours.
func balance(t *testing.T, l *Lab, protocol string, weights map[string]int) netip.AddrPort {
	t.Helper()
	for key, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/vs/conntrack": "1",
		"net/ipv4/vs/conn_reuse_mode": "1", "net/ipv4/vs/expire_nodest_conn": "1",
	} {
		require.NoError(t, l.Node.Sysctl(key, value))
	}
	// As pointsman sets it, where the kernel has it (see node.Sysctls).
	if err := l.Node.Sysctl("net/ipv4/vs/conn_lfactor", "4"); !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	vip := netip.AddrPortFrom(l.NodeAddr, 30080)
	flag := map[string]string{"tcp": "-t", "udp": "-u"}[protocol]
	rules := fmt.Sprintf("-A %s %v -s rr\n", flag, vip)
	for _, b := range l.Backends {
		rules += fmt.Sprintf("-a %s %v -r %v -m -w %d\n", flag, vip, b.Addr, weights[b.Colour])
	}
	_, err := l.Node.Feed(rules, "ipvsadm", "-R")
	require.NoError(t, err)
	_, err = l.Node.Feed(strings.ReplaceAll(`table ip byhand {
		chain post {
			type nat hook postrouting priority srcnat;
			meta l4proto tcp ct original ip daddr VIP ct original proto-dst 30080 masquerade
			meta l4proto udp ct original ip daddr VIP ct original proto-dst 30080 masquerade
		}
	}`, "VIP", l.NodeAddr.String()), "nft", "-f", "-")
	require.NoError(t, err)
	return vip
}

// weigh changes the weights in place, those above 0 first: never empty.
func weigh(t *testing.T, l *Lab, vip netip.AddrPort, weights map[string]int) {
	t.Helper()
	backends := slices.SortedStableFunc(slices.Values(l.Backends), func(a, b *Backend) int {
		return weights[b.Colour] - weights[a.Colour]
	})
	for _, b := range backends {
		_, err := l.Node.Run("ipvsadm", "-e", "-t", vip.String(), "-r", b.Addr.String(), "-m", "-w", fmt.Sprint(weights[b.Colour]))
		require.NoError(t, err)
	}
}

const patience = 20 * time.Second
