package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pointsman/pointsman/internal/kerneltest"
)

// manifests are a virtual server whose scheduler is a module that nobody loaded yet.
const manifests = `
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: web}
spec: {service: {name: web}, active: v1, scheduler: {name: SCHEDULER}}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v1, labels: {kubernetes.io/service-name: web, version: v1}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [192.0.2.1]}]
`

// TestKernelContainer runs the program as the DaemonSet has it run, by the runtime that is under containerd
// and CRI-O: what is granted suffices on a node where nothing is prepared. Then each capability and mount is taken
// away in turn, and is missed.
func TestKernelContainer(t *testing.T) {
	// Debian's 3 is more than CAP_PERFMON is good for (ipvs/changes.go).
	set := paranoid(t, 2)
	all := container{scheduler: "wrr"}
	out := all.run(t, func(text string) bool { return served(t) && strings.Contains(text, "pointsman starts") })
	require.NotContains(t, out, "level\":\"error", "all that is granted")
	if set {
		require.NotContains(t, out, "level\":\"warning", "all that is granted")
	}
	for key, want := range map[string]string{
		"ipv4/vs/conntrack": "1", "ipv4/vs/expire_nodest_conn": "1", "ipv4/ip_forward": "1",
	} {
		require.Equal(t, want, sysctl(t, key), key)
	}

	out = container{scheduler: "wlc", without: "PERFMON"}.run(t, func(text string) bool {
		return served(t) && strings.Contains(text, "it takes CAP_PERFMON")
	})
	require.Contains(t, out, "level\":\"warning", "it serves, and says what is missing")

	if paranoid(t, 3) {
		out = container{scheduler: "lc"}.run(t, func(text string) bool { return served(t) })
		require.Contains(t, out, "perf_event_paranoid", "the default of Debian's kernels: it serves, and says what is missing")
	}

	container{scheduler: "sed", without: "/host/proc/sys/net"}.run(t, func(text string) bool {
		return strings.Contains(text, "read-only file system") && strings.Contains(text, "/host/proc/sys/net")
	})
	require.Equal(t, "0", sysctl(t, "ipv4/vs/conntrack"))

	container{scheduler: "nq", without: "NET_ADMIN"}.run(t, func(text string) bool {
		return strings.Contains(text, "operation not permitted")
	})
	require.False(t, served(t))

	// State on a root that is read-only: it does not start.
	container{scheduler: "sh", without: "/var/lib/pointsman"}.run(t, func(text string) bool {
		return strings.Contains(text, "making the state directory")
	})
}

// paranoid sets kernel.perf_event_paranoid in the guest. It leaves a real machine alone, and says so: there the
// test has only what there is.
func paranoid(t *testing.T, level int) bool {
	t.Helper()
	if os.Getenv("POINTSMAN_VM") == "" {
		return false
	}
	require.NoError(t, os.WriteFile("/proc/sys/kernel/perf_event_paranoid", fmt.Append(nil, level), 0))
	return true
}

// served is whether this namespace has the virtual server with its real server.
func served(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("ipvsadm", "-Ln").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Contains(string(out), "10.96.0.10:80") && strings.Contains(string(out), "192.0.2.1:80")
}

func sysctl(t *testing.T, key string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/" + key) // of the namespace that this thread is in
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// container is one run of the DaemonSet's container, without one of its capabilities or mounts.
type container struct{ scheduler, without string }

// run runs it in a network namespace of its own until done says so of its output, which it gives back. The
// namespace stays the test's until the next run.
func (c container) run(t *testing.T, done func(output string) bool) string {
	t.Helper()
	kerneltest.Namespace(t)
	runc, err := exec.LookPath("runc")
	require.NoError(t, err, "this test needs runc: scripts/setup test")
	bundle := t.TempDir()
	c.bundle(t, bundle)
	// The scheduler is none that something loaded before.
	require.NoDirExists(t, "/sys/module/ip_vs_"+c.scheduler)

	log, err := os.Create(filepath.Join(bundle, "log"))
	require.NoError(t, err)
	defer log.Close()
	name := fmt.Sprintf("pointsman-test-%d-%s", os.Getpid(), c.scheduler)
	call := func(args ...string) *exec.Cmd {
		return exec.Command(runc, append([]string{"--root", filepath.Join(bundle, "runc")}, args...)...)
	}
	cmd := call("run", "--bundle", bundle, name)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	output := func() string {
		text, err := os.ReadFile(log.Name())
		require.NoError(t, err)
		return string(text)
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // runc passes it on
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = call("kill", name, "QUIT").Run() // where it is, if it is still there
			time.Sleep(time.Second)
			_ = call("delete", "--force", name).Run()
			t.Errorf("it did not end on SIGTERM\n%s", output())
		}
	}
	for deadline := time.Now().Add(60 * time.Second); !done(output()); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			stop()
			require.Fail(t, "not seen in time", "without %q\n%s", c.without, output())
		}
	}
	stop()
	return output()
}

// bundle writes what a runtime makes of the DaemonSet's pod.
func (c container) bundle(t *testing.T, bundle string) {
	t.Helper()
	pod := only[*appsv1.DaemonSet](t).Spec.Template.Spec
	pod.Containers[0].SecurityContext.Capabilities.Add = slices.DeleteFunc(pod.Containers[0].SecurityContext.Capabilities.Add,
		func(name corev1.Capability) bool { return string(name) == c.without })
	container := pod.Containers[0]

	root := filepath.Join(bundle, "rootfs")
	require.NoError(t, os.Mkdir(root, 0o755))
	program, err := os.ReadFile(os.Getenv(binary))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "pointsman"), program, 0o755))
	for _, dir := range []string{"manifests", "state"} {
		require.NoError(t, os.Mkdir(filepath.Join(bundle, dir), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "manifests", "web.yaml"),
		[]byte(strings.Replace(manifests, "SCHEDULER", c.scheduler, 1)), 0o644))

	s := spec(t, pod)
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/manifests", Source: filepath.Join(bundle, "manifests"), Type: "bind", Options: []string{"rbind", "ro"}})
	for _, m := range container.VolumeMounts {
		at := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		source, access := pod.Volumes[at].HostPath.Path, "rw"
		if m.ReadOnly {
			access = "ro"
		}
		if m.Name == "state" { // not this machine's own
			source = filepath.Join(bundle, "state")
		}
		if m.MountPath != c.without {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: m.MountPath, Source: source, Type: "bind", Options: []string{"rbind", "rprivate", access}})
		}
	}
	has := flags(t)
	for _, arg := range container.Args {
		if name, _, isFlag := strings.Cut(arg, "="); !isFlag || slices.Contains(has, name) { // TestArgumentsFitTheProgram says if not
			s.Process.Args = append(s.Process.Args, arg)
		}
	}
	s.Process.Args = append(s.Process.Args, "--manifests=/manifests", "--node-name=node1")

	caps := s.Process.Capabilities
	if pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault {
		require.NotNil(t, caps)
		s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
		require.NoError(t, err)
	}
	var text bytes.Buffer
	require.NoError(t, json.NewEncoder(&text).Encode(s))
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), text.Bytes(), 0o644))
}

// spec is the part of it that is containerd's for every pod on the host's network (its
// pkg/oci/spec.go): the paths that it masks and makes read-only, and its namespaces.
func spec(t *testing.T, pod corev1.PodSpec) *specs.Spec {
	t.Helper()
	require.True(t, pod.HostNetwork)
	security := pod.Containers[0].SecurityContext
	require.False(t, *security.Privileged)
	require.Equal(t, []corev1.Capability{"ALL"}, security.Capabilities.Drop)
	var caps []string
	for _, name := range security.Capabilities.Add {
		caps = append(caps, "CAP_"+string(name))
	}
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: *security.ReadOnlyRootFilesystem},
		Process: &specs.Process{
			User: specs.User{UID: uint32(*security.RunAsUser)}, Cwd: "/", Args: []string{"/pointsman"}, NoNewPrivileges: !*security.AllowPrivilegeEscalation,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
