package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/ipvs/ipvsadm"
)

// listFlags are those of `ipvsadm -L`, and our own.
type listFlags struct {
	ipvsadm.Options
	tcp, udp, sctp, mark           string
	ipv6                           bool
	connections, timeouts, daemons bool
	sort, colour                   bool
	output                         string
}

func newList(e env) *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "The kernel's IPVS table as ipvsadm -L prints it",
		Long: `Prints the kernel's table, all of it whoever made it, byte for byte as ipvsadm 1.31 does with the same
flags. --colour adds the colour of each real server as the manifests give it; -o json prints
all that the kernel tells.`,
		Example: "  pointsman list -n --colour --manifests /etc/pointsman/manifests",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			return f.run(e, c, s)
		},
	}
	flags := c.Flags()
	flags.BoolVarP(&f.Numeric, "numeric", "n", false, "addresses and ports as numbers")
	flags.BoolVar(&f.Stats, "stats", false, "connections, packets and bytes so far")
	flags.BoolVar(&f.Rate, "rate", false, "connections, packets and bytes a second")
	flags.BoolVar(&f.Thresholds, "thresholds", false, "connection thresholds")
	flags.BoolVar(&f.PersistentConn, "persistent-conn", false, "session affinity's connection templates")
	flags.BoolVar(&f.TunInfo, "tun-info", false, "types and ports of tunnels")
	flags.BoolVar(&f.Exact, "exact", false, "counters in full")
	flags.BoolVar(&f.sort, "sort", false, "sorted (the default)")
	flags.BoolVar(&f.NoSort, "nosort", false, "in the kernel's order")
	flags.StringVarP(&f.tcp, "tcp-service", "t", "", "only the TCP virtual server `ADDRESS:PORT`")
	flags.StringVarP(&f.udp, "udp-service", "u", "", "only the UDP virtual server `ADDRESS:PORT`")
	flags.StringVar(&f.sctp, "sctp-service", "", "only the SCTP virtual server `ADDRESS:PORT`")
	flags.StringVarP(&f.mark, "fwmark-service", "f", "", "only the virtual server of this firewall `MARK`")
	flags.BoolVarP(&f.ipv6, "ipv6", "6", false, "with -f: the IPv6 one")
	flags.BoolVarP(&f.connections, "connection", "c", false, "connections instead of virtual servers")
	flags.BoolVar(&f.timeouts, "timeout", false, "timeouts instead of virtual servers")
	flags.BoolVar(&f.daemons, "daemon", false, "synchronisation daemons instead of virtual servers")
	flags.BoolVar(&f.colour, "colour", false, "add the colour of each real server, and what each mark of pointsman's stands for")
	flags.StringVarP(&f.output, "output", "o", "", "json: everything, for programs")
	c.MarkFlagsMutuallyExclusive("tcp-service", "udp-service", "sctp-service", "fwmark-service")
	c.MarkFlagsMutuallyExclusive("connection", "timeout", "daemon", "output")
	c.MarkFlagsMutuallyExclusive("sort", "nosort")
	define(c, keyManifests, keyKubeconfig, keyStateDir, keyNodeName, keyNodePorts)
	return c
}

func (f *listFlags) run(e env, c *cobra.Command, s *settings) error {
	if f.output != "" && f.output != "json" {
		return usage("--output %q: want json", f.output)
	}
	if f.connections {
		connections, err := os.Open("/proc/net/ip_vs_conn")
		if err != nil {
			return fmt.Errorf("reading connections: %w (is ip_vs loaded? `modprobe ip_vs`)", err)
		}
		defer connections.Close()
		return ipvsadm.ListConnections(e.stdout, connections, f.Options)
	}
	table, err := ipvs.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	ctx := c.Context()
	switch {
	case f.timeouts:
		t, err := table.Timeouts(ctx)
		if err != nil {
			return err
		}
		return ipvsadm.ListTimeouts(e.stdout, t)
	case f.daemons:
		d, err := table.Daemons(ctx)
		if err != nil {
			return err
		}
		return ipvsadm.ListDaemons(e.stdout, d)
	}
	if f.Service, err = f.only(); err != nil {
		return err
	}
	services, err := table.Read(ctx)
	if err != nil {
		return err
	}
	if f.output == "json" {
		encoder := json.NewEncoder(e.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(services)
	}
	if f.colour {
		if err = f.know(ctx, s); err != nil {
			return err
		}
	}
	header, err := table.Info(ctx)
	if err != nil {
		return err
	}
	return ipvsadm.List(e.stdout, services, header, f.Options)
}

// only is the one virtual server that is asked for, or nil.
func (f *listFlags) only() (*ipvs.Key, error) {
	for protocol, text := range map[ipvs.Protocol]string{ipvs.TCP: f.tcp, ipvs.UDP: f.udp, ipvs.SCTP: f.sctp} {
		if text == "" {
			continue
		}
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, usage("virtual server %q: want ADDRESS:PORT, as in 192.0.2.10:80 or [2001:db8::10]:80", text)
		}
		return &ipvs.Key{Protocol: protocol, Addr: at.Addr().Unmap(), Port: at.Port()}, nil
	}
	if f.mark == "" {
		return nil, nil
	}
	mark, err := strconv.ParseUint(f.mark, 10, 32)
	if err != nil || mark == 0 {
		return nil, usage("firewall mark %q: want a number from 1 to 4294967295", f.mark)
	}
	key := &ipvs.Key{Mark: uint32(mark), Addr: netip.IPv4Unspecified()}
	if f.ipv6 {
		key.Addr = netip.IPv6Unspecified()
	}
	return key, nil
}

// know has the list tell the colour of a real server, as the manifests give it and, for those that drain and
// are declared no more, as the ledger remembers it; and what the marks of ours stand for.
func (f *listFlags) know(ctx context.Context, s *settings) error {
	snap, err := s.load(ctx)
	if err != nil {
		return fmt.Errorf("--colour: %w", err)
	}
	r, closeKernel, err := newReconciler(s, fixed{snap})
	if err != nil {
		return err
	}
	defer closeKernel()
	f.Colour, f.Steered, err = r.Describe()
	return err
}
