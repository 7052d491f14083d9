package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// call runs a command line in this process.
func call(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(context.Background(), env{strings.NewReader(""), &out, &errs}, args)
	return status, out.String(), errs.String()
}

// What is typed wrongly is answered with what was wrong and exit status 2.
func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("manifest: /x\n"), 0o644))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"swich", "myapp"}, `unknown command "swich"`},
		{[]string{"switch"}, "accepts 2 arg(s), received 0"},
		{[]string{"switch", "myapp", "v2", "--manifest", dir}, "unknown flag: --manifest"},
		{[]string{"switch", "a/myapp", "v2", "-n", "b", "--manifests", dir}, "name different namespaces"},
		{[]string{"run", "--manifests", dir, "--log-format", "xml"}, `log-format "xml": want text or json`},
		{[]string{"run", "--manifests", dir, "--log-level", "loud"}, `log-level "loud"`},
		{[]string{"run", "--manifests", dir, "--node-port-addresses", "eth0"}, `node-port-addresses "eth0": want a network`},
		{[]string{"run", "--config", config}, `there is no key "manifest"; known: `},
		{[]string{"run", "--config", config + "x", "--manifests", dir}, "no such file"},
		{[]string{"status", "-o", "yaml", "--state-dir", dir}, `--output "yaml": want json`},
		{[]string{"list", "-o", "xml"}, `--output "xml": want json`},
	} {
		t.Run(strings.Join(c.args[:1], " "), func(t *testing.T) {
			status, _, stderr := call(t, c.args...)
			require.Equal(t, exitUsage, status, stderr)
			require.Contains(t, stderr, c.want)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line: %s", stderr)
		})
	}
}

const manifests = `apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp} # the shop
spec: {service: {name: myapp}, active: v1}
---
apiVersion: v1
kind: Service
metadata: {name: myapp, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: myapp-v1, labels: {kubernetes.io/service-name: myapp, version: v1}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.140.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: myapp-v2, labels: {kubernetes.io/service-name: myapp, version: v2}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.140.2]}]
`

// A switch is an edit of one value; one that cannot be made changes nothing.
func TestSwitchEditsOneValue(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "myapp.yaml"), filepath.Join(dir, "state")
	require.NoError(t, os.WriteFile(file, []byte(manifests), 0o644))
	on := []string{"--manifests", dir, "--state-dir", state}
	content := func() string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(text)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"switch", "myapp", "v3"}, exitRefused, "ready now: v1, v2"},
		{[]string{"switch", "other", "v2"}, exitRefused, "no such VirtualServer default/other; declared: default/myapp"},
		{[]string{"switch", "shop/myapp", "v2"}, exitRefused, "no such VirtualServer shop/myapp"},
		{[]string{"rollback", "myapp"}, exitRefused, "there is no previous colour"},
	} {
		status, stdout, stderr := call(t, append(c.args, on...)...)
		require.Equal(t, c.status, status, "%v: %s", c.args, stderr)
		require.Contains(t, stderr, c.want)
		require.Empty(t, stdout)
		require.Equal(t, manifests, content())
	}
	status, stdout, stderr := call(t, append([]string{"switch", "myapp", "v2"}, on...)...)
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "declared v2 (was v1)")
	require.Equal(t, strings.Replace(manifests, "active: v1", "active: v2", 1), content())
	// Nobody is there to make it so.
	status, _, stderr = call(t, append([]string{"switch", "myapp", "v2", "--wait", "--timeout", "50ms"}, on...)...)
	require.Equal(t, exitTimeout, status, stderr)
}

func TestStatusWithoutDaemon(t *testing.T) {
	status, stdout, stderr := call(t, "status", "--state-dir", t.TempDir())
	require.Equal(t, exitFailed, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "no daemon has written a status")
}

// The variables of the environment and the file are read, the flag first.
func TestConfigurationPrecedence(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("state-dir: "+dir+"/file\n"), 0o644))
	_, _, stderr := call(t, "status", "--config", config)
	require.Contains(t, stderr, dir+"/file")
	t.Setenv("POINTSMAN_STATE_DIR", dir+"/env")
	_, _, stderr = call(t, "status", "--config", config)
	require.Contains(t, stderr, dir+"/env")
	_, _, stderr = call(t, "status", "--config", config, "--state-dir", dir+"/flag")
	require.Contains(t, stderr, dir+"/flag")
}

func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "myapp.yaml"), []byte(manifests), 0o644))
	t.Setenv("POINTSMAN_MANIFESTS", dir)
	_, stdout, _ := call(t, "__complete", "switch", "")
	require.Contains(t, stdout, "myapp\n")
	_, stdout, _ = call(t, "__complete", "switch", "myapp", "")
	require.Contains(t, stdout, "v1\n")
	require.Contains(t, stdout, "v2\n")
	status, stdout, _ := call(t, "completion", "bash")
	require.Zero(t, status)
	require.Contains(t, stdout, "pointsman")
}
