package v1alpha1_test

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

const (
	virtualServers = "pointsman.io_virtualservers.yaml"
	nodeReports    = "pointsman.io_nodereports.yaml"
)

const switched = `
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp, namespace: default, creationTimestamp: "2026-01-02T03:04:05Z"}
spec: {service: {name: myapp}, active: v2}
status:
  active: v2
  previous: v1
  candidate: v3
  weight: 10
  decision: 7
  phase: Stepping
  step: 1
  reason: Paused
  message: spec.switch.paused holds it
  declaration: 0123456789abcdef
  started: "2026-01-02T03:04:05Z"
  since: "2026-01-02T03:04:05Z"
  deadline: "2026-01-02T03:05:05Z"
  hooks: {before: {succeeded: true, calls: 1, last: "2026-01-02T03:04:05Z"}, after: {succeeded: false, calls: 2, message: "503 Service Unavailable"}}
  colours: [{name: v1, endpoints: 10, ready: 10}, {name: v2, endpoints: 10, ready: 9}]
  nodes: {total: 3, staged: 3, switched: 3}
  conditions:
  - {type: Accepted, status: "True", observedGeneration: 4, lastTransitionTime: "2026-01-02T03:04:05Z", reason: Served, message: ""}
  - {type: Healthy, status: "False", observedGeneration: 4, lastTransitionTime: "2026-01-02T03:04:05Z", reason: NotReady, message: one endpoint of v2 is not ready}
  history: [{from: v1, to: v2, started: "2026-01-02T03:04:05Z", ended: "2026-01-02T03:04:06Z", outcome: Succeeded, reason: Done, message: it is}]
`

const report = `
apiVersion: pointsman.io/v1alpha1
kind: NodeReport
metadata: {name: mast01.example, creationTimestamp: "2026-01-02T03:04:05Z"}
status:
  version: v0.3.0
  error: "ipvs: adding a real server: no such process"
  virtualServers:
  - {namespace: default, name: myapp, generation: 4, active: v2, verified: true, realServers: 10, draining: [{colour: v1, realServers: 3, connections: 7}],
     decision: 7, staged: v3, weight: 10, steering: Mark, steeringReason: kube-proxy deletes what it did not make,
     probe: {colour: v3, passed: 9, failed: 1, failures: ["10.244.1.7:80: connection refused"]}, signs: [{colour: v2, reason: HalfOpen, message: "7 connections are half open"}]}
  - {namespace: shop, name: myapp, generation: 1, active: "", verified: false, realServers: 0, reason: NoSuchService, message: "create Service shop/myapp"}
`

// TestColumns: what `kubectl get` prints.
func TestColumns(t *testing.T) {
	for _, c := range []struct {
		file, object string
		names, cells []any
	}{
		{virtualServers, switched, []any{"Name", "ACTIVE", "PHASE", "READY", "NODES"}, []any{"myapp", "v2", "Stepping", "False", int64(3)}},
		{nodeReports, report, []any{"Name", "VERSION", "ERROR"}, []any{"mast01.example", "v0.3.0", "ipvs: adding a real server: no such process"}},
	} {
		var columns []apiextensionsv1.CustomResourceColumnDefinition
		for _, col := range readCRD(t, c.file).Spec.AdditionalPrinterColumns {
			columns = append(columns, apiextensionsv1.CustomResourceColumnDefinition{Name: col.Name, Type: col.Type, Format: col.Format, JSONPath: col.JSONPath})
		}
		convertor, err := tableconvertor.New(columns)
		require.NoError(t, err)
		table, err := convertor.ConvertToTable(context.Background(), &unstructured.Unstructured{Object: object(t, []byte(c.object))}, nil)
		require.NoError(t, err)
		var names []any
		for _, col := range table.ColumnDefinitions {
			names = append(names, col.Name)
		}
		assert.Equal(t, append(c.names, "AGE"), names)
		require.Len(t, table.Rows[0].Cells, len(c.cells)+1)
		assert.Equal(t, c.cells, table.Rows[0].Cells[:len(c.cells)])
		assert.NotContains(t, table.Rows[0].Cells[len(c.cells)], "unknown", "AGE")
	}
}

// TestScheme: the objects decode by their kind, as client-go decodes them, and what is written of them
// keeps to the CRDs.
func TestScheme(t *testing.T) {
	scheme := runtime.NewScheme()
	require.NoError(t, v1alpha1.AddToScheme(scheme))
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for file, text := range map[string]string{virtualServers: switched, nodeReports: report} {
		got, _, err := decoder.Decode([]byte(text), nil, nil)
		require.NoError(t, err)
		want := got.DeepCopyObject()
		assert.Equal(t, want, got)
		written, err := yaml.Marshal(got)
		require.NoError(t, err)
		server := newAPIServer(t, file)
		obj := object(t, written)
		require.NoError(t, server.decode(obj), "a field that the CRD does not know")
		assert.Empty(t, server.validate(obj), "%s", written)
	}
	for _, kind := range []string{"VirtualServer", "VirtualServerList", "NodeReport", "NodeReportList"} {
		assert.True(t, scheme.Recognizes(v1alpha1.GroupVersion.WithKind(kind)), kind)
	}
}

// TestNodeReportBounds: a report at its bounds is stored, one beyond is not.
func TestNodeReportBounds(t *testing.T) {
	server := newAPIServer(t, nodeReports)
	long := func(n int) string { return strings.Repeat("e", n) }
	for name, c := range map[string]struct {
		change func(*v1alpha1.NodeReportStatus)
		field  string // that is refused; "": none
	}{
		"as it is":            {func(*v1alpha1.NodeReportStatus) {}, ""},
		"empty":               {func(s *v1alpha1.NodeReportStatus) { *s = v1alpha1.NodeReportStatus{} }, ""},
		"error at its bound":  {func(s *v1alpha1.NodeReportStatus) { s.Error = long(v1alpha1.MaxReportError) }, ""},
		"error":               {func(s *v1alpha1.NodeReportStatus) { s.Error = long(v1alpha1.MaxReportError + 1) }, "status.error"},
		"reason at its bound": {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Reason = long(v1alpha1.MaxReportReason) }, ""},
		"reason":              {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Reason = long(v1alpha1.MaxReportReason + 1) }, "reason"},
		"reason of words":     {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Reason = "no such Service" }, "reason"},
		"message at its bound": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[1].Message = long(v1alpha1.MaxReportMessage)
		}, ""},
		"message":         {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[1].Message = long(v1alpha1.MaxReportMessage + 1) }, "message"},
		"no name":         {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Name = "" }, "virtualServers[0].name"},
		"twice":           {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[1] = s.VirtualServers[0] }, "virtualServers[1]"},
		"same name":       {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[1].Namespace = "default" }, "virtualServers[1]"},
		"colour twice":    {func(s *v1alpha1.NodeReportStatus) { d := &s.VirtualServers[0].Draining; *d = append(*d, (*d)[0]) }, "draining[1]"},
		"fewer than none": {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].RealServers = -1 }, "realServers"},
		"steering":        {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Steering = "Sideways" }, "steering"},
		"steering reason": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].SteeringReason = long(v1alpha1.MaxSteeringReason + 1)
		}, "steeringReason"},
		"weight": {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Weight = 101 }, "weight"},
		"probe failures at their bound": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Probe.Failures = slices.Repeat([]string{long(v1alpha1.MaxProbeFailure)}, v1alpha1.MaxProbeFailures)
		}, ""},
		"probe failures": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Probe.Failures = make([]string, v1alpha1.MaxProbeFailures+1)
		}, "failures"},
		"probe failure": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Probe.Failures[0] = long(v1alpha1.MaxProbeFailure + 1)
		}, "failures[0]"},
		"signs at their bound": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Signs = slices.Repeat([]v1alpha1.Sign{{Colour: "v1", Reason: long(v1alpha1.MaxSignReason), Message: long(v1alpha1.MaxSignMessage)}}, v1alpha1.MaxSigns)
		}, ""},
		"signs": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Signs = slices.Repeat(s.VirtualServers[0].Signs, v1alpha1.MaxSigns+1)
		}, "signs"},
		"sign's message": {func(s *v1alpha1.NodeReportStatus) {
			s.VirtualServers[0].Signs[0].Message = long(v1alpha1.MaxSignMessage + 1)
		}, "message"},
		"less than nothing": {func(s *v1alpha1.NodeReportStatus) { s.VirtualServers[0].Draining[0].Connections = -1 }, "connections"},
	} {
		t.Run(name, func(t *testing.T) {
			var r v1alpha1.NodeReport
			require.NoError(t, yaml.UnmarshalStrict([]byte(report), &r))
			c.change(&r.Status)
			data, err := yaml.Marshal(r)
			require.NoError(t, err)
			obj := object(t, data)
			require.NoError(t, server.decode(obj))
			refusal := server.validate(obj).ToAggregate()
			if c.field == "" {
				assert.NoError(t, refusal)
			} else {
				assert.ErrorContains(t, refusal, c.field)
			}
		})
	}
}

// TestSchedulersAreTheEnum: a scheduler is added in two places.
func TestSchedulersAreTheEnum(t *testing.T) {
	spec := readCRD(t, virtualServers).Spec.Validation.OpenAPIV3Schema.Properties["spec"]
	var names []string
	for _, v := range spec.Properties["scheduler"].Properties["name"].Enum {
		names = append(names, v.(string))
	}
	assert.ElementsMatch(t, append([]string{""}, v1alpha1.Schedulers...), names)
}

// TestProgramHasNoCEL: only tests check a manifest with the CRD itself; the program is to stay small.
func TestProgramHasNoCEL(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/pointsman/pointsman/cmd/pointsman").Output()
	require.NoError(t, err)
	for _, path := range strings.Fields(string(out)) {
		for _, heavy := range []string{"github.com/google/cel-go", "k8s.io/apiextensions-apiserver", "k8s.io/apiserver", "sigs.k8s.io/controller-"} {
			assert.False(t, strings.HasPrefix(path, heavy), "the program links %s", path)
		}
	}
}
