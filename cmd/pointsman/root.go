package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

// configFile is read when it is there and --config names no other.
const configFile = "/etc/pointsman/config.yaml"

// Configuration keys. Each is a flag, a variable POINTSMAN_<KEY> and a key of the file.
const (
	keyManifests     = "manifests"
	keyKubeconfig    = "kubeconfig"
	keyStateDir      = "state-dir"
	keyNodeName      = "node-name"
	keyNodePorts     = "node-port-addresses"
	keyClusterCIDRs  = "cluster-cidrs"
	keySteering      = "steering"
	keyMarks         = "steering-marks"
	keyHealthAddress = "health-address"
	keyLogFormat     = "log-format"
	keyLogLevel      = "log-level"
)

// settings are the validated configuration.
type settings struct {
	manifests, kubeconfig, stateDir, nodeName, healthAddress string
	nodePorts, clusterCIDRs                                  []netip.Prefix
	steering                                                 v1alpha1.Steering
	marks                                                    sync.Marks
	log                                                      *logrus.Logger
}

func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:   "pointsman",
		Short: "IPVS virtual servers for blue-green: new connections go to exactly one colour",
		Long: `pointsman makes the kernel's IPVS table send a virtual server's new connections to exactly
one colour (version) of a workload, and moves them to another colour on request,
without refusing or losing a connection.

Every flag that is not of one command alone can also be set as POINTSMAN_<FLAG> or as
a key of ` + configFile + `.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Cobra's own check knows nothing of exit statuses.
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				return usage("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
			}
			return usage("unknown command %q (see 'pointsman --help')", args[0])
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w (see '%s --help')", err, c.CommandPath())}
	})
	root.PersistentFlags().String("config", "", "configuration file (default "+configFile+", where it is there)")
	root.AddCommand(
		newRun(e), newList(e), newStatus(e), newSwitch(e), newRollback(e), newAbort(e),
		newPause(e), newResume(e), newPlan(e), newPreflight(e), newCleanup(e), newVersion(e),
	)
	for _, c := range root.Commands() {
		if args := c.Args; args != nil {
			c.Args = func(c *cobra.Command, a []string) error {
				if err := args(c, a); err != nil {
					return &exitError{exitUsage, fmt.Errorf("%w; usage: %s", err, c.UseLine())}
				}
				return nil
			}
		}
	}
	return root
}

// define declares the flags of a command that are configuration too.
func define(c *cobra.Command, keys ...string) {
	f := c.Flags()
	for _, key := range keys {
		switch key {
		case keyManifests:
			f.String(key, "", "directory of VirtualServer, Service and EndpointSlice manifests (default: a cluster's API server)")
		case keyKubeconfig:
			f.String(key, "", "the cluster's kubeconfig file (default: KUBECONFIG, or the cluster of the Pod that this is)")
		case keyStateDir:
			f.String(key, "/var/lib/pointsman", "directory of what has to outlive the daemon")
		case keyNodeName:
			f.String(key, "", "this node's name, as endpoints' nodeName has it (default: the host's name)")
		case keyNodePorts:
			f.StringSlice(key, nil, "networks whose node addresses serve node ports, as CIDRs (default: every address)")
		case keyClusterCIDRs:
			f.StringSlice(key, nil, "pod networks, as CIDRs: clients of a ClusterIP from elsewhere are masqueraded")
		case keySteering:
			f.String(key, string(v1alpha1.SteeringAuto), "how virtual servers are keyed that do not say so themselves: Address, Mark, or Auto: Address, unless kube-proxy in ipvs mode deletes those")
		case keyMarks:
			f.String(key, fmt.Sprintf("%#x-%#x", sync.DefaultMarks.First, sync.DefaultMarks.First+sync.DefaultMarks.Count-1), "firewall marks that a switch may use, none of them anybody else's")
		case keyHealthAddress:
			f.String(key, "", "address and port of /healthz, /readyz and /metrics, such as 127.0.0.1:9967 (default: none)")
		case keyLogFormat:
			f.String(key, "text", "log format: text or json")
		case keyLogLevel:
			f.String(key, "info", "log level: debug, info, warning or error")
		}
	}
}

// configure reads flags, environment and file, in that order of precedence, for a command.
func configure(e env, c *cobra.Command) (*settings, error) {
	v := viper.New()
	known := []string{keyManifests, keyKubeconfig, keyStateDir, keyNodeName, keyNodePorts, keyClusterCIDRs, keySteering, keyMarks, keyHealthAddress, keyLogFormat, keyLogLevel}
	v.SetEnvPrefix("POINTSMAN")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	// An unknown variable is no error: Kubernetes sets POINTSMAN_SERVICE_HOST and the like in the pods of
	// a namespace that has a Service of this name.
	v.AutomaticEnv()
	file, _ := c.Flags().GetString("config")
	if err := readFile(v, file, known); err != nil {
		return nil, err
	}
	var bindErr error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains(known, f.Name) {
			bindErr = errors.Join(bindErr, v.BindPFlag(f.Name, f))
		}
	})
	if bindErr != nil {
		return nil, bindErr
	}
	return validate(e, v)
}

func readFile(v *viper.Viper, file string, known []string) error {
	path := file
	if path == "" {
		path = configFile
	}
	v.SetConfigFile(path)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		if file == "" && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return usage("configuration file %s: %w", path, err)
	}
	for _, key := range v.AllKeys() {
		if v.InConfig(key) && !slices.Contains(known, key) {
			return usage("configuration file %s: there is no key %q; known: %s", path, key, strings.Join(known, ", "))
		}
	}
	return nil
}

// validate turns raw configuration into settings.
func validate(e env, v *viper.Viper) (*settings, error) {
	s := &settings{
		manifests: v.GetString(keyManifests), kubeconfig: v.GetString(keyKubeconfig), stateDir: v.GetString(keyStateDir), nodeName: v.GetString(keyNodeName),
		healthAddress: v.GetString(keyHealthAddress), log: logrus.New(),
	}
	s.log.SetOutput(e.stderr)
	switch format := v.GetString(keyLogFormat); format {
	case "", "text":
		s.log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "15:04:05.000"})
	case "json":
		s.log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	default:
		return nil, usage("%s %q: want text or json", keyLogFormat, format)
	}
	if level := v.GetString(keyLogLevel); level != "" {
		parsed, err := logrus.ParseLevel(level)
		if err != nil {
			return nil, usage("%s %q: want debug, info, warning or error", keyLogLevel, level)
		}
		s.log.SetLevel(parsed)
	}
	var err error
	if s.nodePorts, err = prefixes(v, keyNodePorts); err != nil {
		return nil, err
	}
	if s.clusterCIDRs, err = prefixes(v, keyClusterCIDRs); err != nil {
		return nil, err
	}
	s.steering = v1alpha1.Steering(v.GetString(keySteering))
	switch s.steering {
	case "", v1alpha1.SteeringAuto, v1alpha1.SteeringAddress, v1alpha1.SteeringMark:
	default:
		return nil, usage("%s %q: want Auto, Address or Mark", keySteering, s.steering)
	}
	if s.marks, err = marks(v.GetString(keyMarks)); err != nil {
		return nil, err
	}
	if s.nodeName == "" {
		if s.nodeName, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("finding the host's name: %w; set --%s", err, keyNodeName)
		}
	}
	return s, nil
}

func prefixes(v *viper.Viper, key string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, list := range v.GetStringSlice(key) {
		for _, text := range strings.Split(list, ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(text))
			if err != nil {
				return nil, usage("%s %q: want a network as in 192.0.2.0/24 or 2001:db8::/64", key, text)
			}
			out = append(out, p.Masked())
		}
	}
	return out, nil
}

// marks is a range of firewall marks, as in 0x1000-0x1fff.
func marks(text string) (sync.Marks, error) {
	if text == "" {
		return sync.DefaultMarks, nil
	}
	from, to, _ := strings.Cut(text, "-")
	first, errFirst := strconv.ParseUint(from, 0, 32)
	last, errLast := strconv.ParseUint(to, 0, 32)
	if errFirst != nil || errLast != nil || first == 0 || last < first {
		return sync.Marks{}, usage("%s %q: want the first and the last mark from 1 to 0xffffffff, as in 0x1000-0x1fff", keyMarks, text)
	}
	return sync.Marks{First: uint32(first), Count: uint32(last - first + 1)}, nil
}

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}
