package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
)

const unitFile = "../systemd/pointsman.service"

// unit is the unit file's settings, by key.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	out := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "[") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		require.True(t, ok, line)
		out[key] = append(out[key], strings.Fields(value)...)
	}
	return out
}

func TestUnitFitsTheProgram(t *testing.T) {
	u := unit(t)
	command := u["ExecStart"]
	require.Equal(t, []string{"/usr/local/bin/pointsman", "run"}, command[:2])
	for _, arg := range command[2:] {
		if strings.HasPrefix(arg, "-") {
			require.Contains(t, flags(t), arg)
		}
	}
	require.Contains(t, command, "--manifests", "without it it would look for Kubernetes")
	// StateDirectory is below /var/lib, where the program's default is.
	require.Equal(t, []string{"pointsman"}, u["StateDirectory"])

	var caps []string
	for _, name := range only[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0].SecurityContext.Capabilities.Add {
		caps = append(caps, "CAP_"+string(name))
	}
	require.Equal(t, caps, u["CapabilityBoundingSet"], "the DaemonSet's")
	require.Contains(t, u["SystemCallFilter"], "perf_event_open")
	for _, key := range []string{"ProtectKernelTunables", "ProtectKernelModules", "PrivateNetwork"} {
		require.NotContains(t, u, key)
	}
	require.True(t, slices.Contains(u["RestrictAddressFamilies"], "AF_NETLINK"))
}

// TestUnitVerifies has systemd itself read the unit, where there is one.
func TestUnitVerifies(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	text, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	// The program is not installed where the unit has it.
	text = []byte(strings.Replace(string(text), "/usr/local/bin/pointsman", os.Getenv(binary), 1))
	path := filepath.Join(t.TempDir(), "pointsman.service")
	require.NoError(t, os.WriteFile(path, text, 0o644))
	out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	// Of an unknown key it only warns.
	require.NotContains(t, string(out), filepath.Base(path)+":", "%s", out)
}
