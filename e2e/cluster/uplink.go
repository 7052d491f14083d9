package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/pointsman/pointsman/internal/lab"
)

// The uplink is how nodes, and pods through them, reach the API server: a bridge in the guest's own
// namespace, behind which the guest masquerades to QEMU's user network. It leads nowhere else.

const uplinkBridge = "uplinks"

// makeUplink makes the bridge; one that is there is that of an earlier test.
func makeUplink() error {
	if _, err := netlink.LinkByName(uplinkBridge); err == nil {
		return nil
	}
	gateway := host(uplinkNetwork, gatewayHost)
	rules := fmt.Sprintf(`table ip uplink {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip daddr %[1]s masquerade
	}
	chain forward {
		type filter hook forward priority filter
		iifname "%[2]s" ip daddr != %[1]s reject
	}
}`, hostFromGuest, uplinkBridge)
	commands := [][]string{
		{"", "ip", "link", "add", uplinkBridge, "type", "bridge"},
		{"", "ip", "address", "add", gateway.String(), "dev", uplinkBridge},
		{"", "ip", "link", "set", uplinkBridge, "up"},
		{rules, "nft", "-f", "-"},
	}
	for _, c := range commands {
		if _, err := run(c[0], c[1], c[2:]...); err != nil {
			return fmt.Errorf("making the uplink: %w", err)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// joinUplink gives the node's namespace a device uplink on the bridge, and the guest a way back to
// its pods.
func joinUplink(ns *lab.Namespace, name string, addr netip.Prefix, pods netip.Prefix) error {
	port := "up-" + name
	for _, command := range []string{
		"ip link add " + port + " type veth peer name uplink netns " + ns.Name(),
		"ip link set " + port + " master " + uplinkBridge + " up",
		"ip -n " + ns.Name() + " link set uplink up",
		"ip -n " + ns.Name() + " address add " + addr.String() + " dev uplink",
		"ip route replace " + pods.String() + " via " + addr.Addr().String(),
	} {
		words := strings.Fields(command)
		if _, err := run("", words[0], words[1:]...); err != nil {
			return fmt.Errorf("joining %s to the uplink: %w", name, err)
		}
	}
	return nil
}

// leaveUplink removes the node's device at once: its namespace goes some time later, and the next test
// wants the name.
func leaveUplink(name string) { _, _ = run("", "ip", "link", "delete", "up-"+name) }
