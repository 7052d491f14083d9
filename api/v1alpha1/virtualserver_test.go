package v1alpha1

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, spec string) *VirtualServer {
	t.Helper()
	vs := &VirtualServer{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "default"}}
	require.NoError(t, yaml.UnmarshalStrict([]byte(spec), &vs.Spec))
	return vs
}

func TestDefault(t *testing.T) {
	vs := parse(t, "{service: {name: myapp}, active: v1, switch: {gate: {probe: {http: {}}}, observe: {probe: {http: {}}, prometheus: {url: \"http://a\", query: up, max: \"1\"}}, hooks: {before: {url: \"http://a\"}, after: {url: \"http://a\"}}}}")
	Default(vs)
	assert.Empty(t, Validate(vs))
	want := parse(t, `
service: {name: myapp}
colourLabel: version
active: v1
scheduler: {name: rr}
forwarding: masquerade
switch:
  gate: {minReady: 100%, probe: {http: {scheme: HTTP, path: /, status: 200}}, nodes: All, timeout: 2m}
  observe:
    window: 10m
    minReady: 80%
    onFailure: Rollback
    probe: {http: {scheme: HTTP, path: /, status: 200}}
    connections: true
    prometheus: {url: "http://a", query: up, max: "1", interval: 15s}
  drain: {timeout: 5m, onTimeout: Keep}
  hooks: {before: {url: "http://a", timeout: 10s}, after: {url: "http://a", timeout: 10s}}
`)
	assert.Equal(t, want, vs)
	Default(vs)
	assert.Equal(t, want, vs, "a second time changes nothing")
}

// TestDefaultKeepsZero: a zero that was written is refused by Validate, not read as "the default".
func TestDefaultKeepsZero(t *testing.T) {
	vs := parse(t, "{service: {name: myapp}, active: v1, switch: {gate: {minReady: 0, timeout: 0s}, drain: {timeout: 0s}, observe: {window: 0s}}}")
	Default(vs)
	assert.Equal(t, intstr.FromInt32(0), *vs.Spec.Switch.Gate.MinReady)
	assert.Equal(t, time.Duration(0), vs.Spec.Switch.Drain.Timeout.Duration)
	var fields []string
	for _, e := range Validate(vs) {
		fields = append(fields, strings.TrimPrefix(e.Field, "spec.switch."))
	}
	assert.Equal(t, []string{"gate.minReady", "gate.timeout", "observe.window", "drain.timeout"}, fields)
}

func TestDefaultLeavesObserveAndSteering(t *testing.T) {
	vs := parse(t, "{service: {name: myapp}, active: v1}")
	Default(vs)
	assert.Nil(t, vs.Spec.Switch.Observe, "not watched unless asked for")
	assert.Empty(t, vs.Spec.Steering, "the node's own setting")
	assert.Empty(t, Validate(vs))
}

func TestPercentage(t *testing.T) {
	for s, want := range map[string]bool{"1%": true, "100%": true, "80%": true, "0%": false, "101%": false, "080%": false, "+5%": false, "5": false, "%": false, "5.5%": false, " 5%": false} {
		assert.Equal(t, want, percentage(s), s)
	}
}

func TestSchedulerFlags(t *testing.T) {
	for flags, ok := range map[string]bool{
		"{name: sh, flags: [sh-port, sh-fallback]}": true,
		"{name: mh, flags: [mh-port, flag-3]}":      true,
		"{name: rr, flags: [flag-1]}":               true,
		"{name: rr, flags: [sh-port]}":              false,
		"{name: mh, flags: [mh-port, mh-port]}":     false,
		"{name: mh, flags: [MH-PORT]}":              false,
	} {
		vs := parse(t, "{service: {name: myapp}, active: v1, scheduler: "+flags+"}")
		Default(vs)
		assert.Equal(t, ok, len(Validate(vs)) == 0, flags)
	}
}
