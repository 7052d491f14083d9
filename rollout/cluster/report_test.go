package cluster

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/sync"
)

func serving(name, active string, generation int64) sync.ServerStatus {
	return sync.ServerStatus{
		Namespace: "default", Name: name, Generation: generation, Declared: active, Verified: true, Decision: 99,
		Virtual: []sync.VirtualStatus{{Key: "TCP 192.0.2.10:30080", Serving: 10}},
		Status:  v1alpha1.VirtualServerStatus{Active: active, Phase: v1alpha1.PhaseSteady},
	}
}

func TestReportOf(t *testing.T) {
	cases := []struct {
		name string
		from func(*sync.ServerStatus)
		want func(*v1alpha1.NodeVirtualServer)
	}{
		{"verified", func(*sync.ServerStatus) {}, func(*v1alpha1.NodeVirtualServer) {}},
		{"decided and not read back is not active", func(s *sync.ServerStatus) { s.Verified = false },
			func(e *v1alpha1.NodeVirtualServer) { e.Verified, e.Active = false, "" }},
		{"fewest real servers", func(s *sync.ServerStatus) {
			s.Virtual = []sync.VirtualStatus{{Serving: 10}, {Serving: 3}, {Serving: 7}}
		}, func(e *v1alpha1.NodeVirtualServer) { e.RealServers = 3 }},
		{"no virtual server", func(s *sync.ServerStatus) { s.Virtual = nil }, func(e *v1alpha1.NodeVirtualServer) { e.RealServers = 0 }},
		{"draining by colour, a shared real server once, no colour not at all", func(s *sync.ServerStatus) {
			s.Draining = []sync.DrainStatus{
				{Virtual: "a", Real: "10.0.0.2:80", Colour: "v1", Active: 2, Inactive: 1},
				{Virtual: "b", Real: "10.0.0.2:80", Colour: "v1", Active: 4},
				{Virtual: "a", Real: "10.0.0.1:80", Colour: "v1"},
				{Virtual: "a", Real: "10.0.0.9:80", Colour: "v0", Inactive: 5},
				{Virtual: "a", Real: "10.0.0.8:80", Inactive: 5},
			}
		}, func(e *v1alpha1.NodeVirtualServer) {
			e.Draining = []v1alpha1.ColourDrain{{Colour: "v0", RealServers: 1, Connections: 5}, {Colour: "v1", RealServers: 2, Connections: 7}}
		}},
		{"draining until the last deadline", func(s *sync.ServerStatus) {
			soon, late := time.Unix(1000, 7), time.Unix(1010, 7)
			s.Draining = []sync.DrainStatus{
				{Real: "10.0.0.1:80", Colour: "v1", Active: 1, Deadline: &soon},
				{Real: "10.0.0.2:80", Colour: "v1", Active: 1, Deadline: &late},
				{Real: "10.0.0.3:80", Colour: "v1", Active: 1, Deadline: &soon},
			}
		}, func(e *v1alpha1.NodeVirtualServer) {
			at := metav1.NewTime(time.Unix(1010, 0).UTC())
			e.Draining = []v1alpha1.ColourDrain{{Colour: "v1", RealServers: 3, Connections: 3, Deadline: &at}}
		}},
		{"refused", func(s *sync.ServerStatus) {
			s.Verified = false
			s.Status.Conditions = []metav1.Condition{
				{Type: v1alpha1.ConditionSwitched, Status: metav1.ConditionFalse, Reason: "NoReadyEndpoint", Message: "no"},
				{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: "ServiceNotFound", Message: "create it"},
			}
		}, func(e *v1alpha1.NodeVirtualServer) {
			e.Verified, e.Active, e.Reason, e.Message = false, "", "ServiceNotFound", "create it"
		}},
		{"blocked", func(s *sync.ServerStatus) {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionSwitched, Status: metav1.ConditionFalse, Reason: "NoReadyEndpoint", Message: "no"}}
		}, func(e *v1alpha1.NodeVirtualServer) { e.Reason, e.Message = "NoReadyEndpoint", "no" }},
		{"not verified is no reason", func(s *sync.ServerStatus) {
			s.Verified = false
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionSwitched, Status: metav1.ConditionFalse, Reason: "NotVerified", Message: "yet"}}
		}, func(e *v1alpha1.NodeVirtualServer) { e.Verified, e.Active = false, "" }},
		{"reason that is not CamelCase", func(s *sync.ServerStatus) {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: "no such thing!", Message: "m"}}
		}, func(e *v1alpha1.NodeVirtualServer) { e.Reason, e.Message = "nosuchthing", "m" }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := serving("myapp", "v1", 4)
			c.from(&s)
			want := v1alpha1.NodeVirtualServer{Namespace: "default", Name: "myapp", Generation: 4, Active: "v1", Verified: true, RealServers: 10, Decision: 99}
			c.want(&want)
			got := ReportOf(&sync.Status{Servers: []*sync.ServerStatus{&s}}, "v0.3")
			require.Equal(t, v1alpha1.NodeReportStatus{Version: "v0.3", VirtualServers: []v1alpha1.NodeVirtualServer{want}}, got)
		})
	}
	got := ReportOf(&sync.Status{
		Error: "reading IPVS: no", Errors: []endpoints.SourceError{{Source: "a.yaml", Message: "bad"}},
		Servers: []*sync.ServerStatus{new(serving("b", "v1", 1)), new(serving("a", "v1", 1)), new(serving("b", "v2", 2))},
	}, "")
	require.Equal(t, "reading IPVS: no; a.yaml: bad", got.Error)
	require.Len(t, got.VirtualServers, 2)
	require.Equal(t, "a", got.VirtualServers[0].Name)
	require.Equal(t, "v1", got.VirtualServers[1].Active)
}

// Whatever a node has to say, the API server takes the report of it: by the CRD that is deployed.
func TestReportFitsTheCRD(t *testing.T) {
	validate := crdValidator(t, "pointsman.io_nodereports.yaml")
	text := func(most int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			s := rapid.StringN(0, 12, -1).Draw(t, "text")
			if n := rapid.SampledFrom([]int{0, 0, most, 2 * most}).Draw(t, "long"); n > 0 && s != "" {
				s = strings.Repeat(s, 1+n/len([]rune(s)))
			}
			return s + rapid.SampledFrom([]string{"", "", "\xff\xfe"}).Draw(t, "broken")
		})
	}
	name := rapid.StringMatching(`[a-z]([a-z0-9-]{0,20}[a-z0-9])?`)
	colour := rapid.SampledFrom([]string{"", "v1", "v2", strings.Repeat("v", 63)})
	rapid.Check(t, func(t *rapid.T) {
		status := sync.Status{Error: text(v1alpha1.MaxReportError).Draw(t, "error")}
		for range rapid.IntRange(0, 3).Draw(t, "servers") {
			s := sync.ServerStatus{
				Namespace: name.Draw(t, "namespace"), Name: name.Draw(t, "name"), Generation: rapid.Int64Range(0, 9).Draw(t, "generation"),
				Verified: rapid.Bool().Draw(t, "verified"),
			}
			s.Status.Active = colour.Draw(t, "active")
			for range rapid.IntRange(0, 3).Draw(t, "draining") {
				s.Draining = append(s.Draining, sync.DrainStatus{
					Real: name.Draw(t, "real"), Colour: colour.Draw(t, "colour"), Active: rapid.Uint32().Draw(t, "conns"), Inactive: rapid.Uint32().Draw(t, "conns"),
				})
			}
			if rapid.IntRange(0, 9).Draw(t, "many") == 0 {
				for i := range 1100 {
					s.Draining = append(s.Draining, sync.DrainStatus{Real: "r", Colour: fmt.Sprint("c", i)})
				}
			}
			if rapid.Bool().Draw(t, "refused") {
				s.Status.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse,
					Reason: text(v1alpha1.MaxReportReason).Draw(t, "reason"), Message: text(v1alpha1.MaxReportMessage).Draw(t, "message"),
				}}
			}
			status.Servers = append(status.Servers, &s)
		}
		report := ReportOf(&status, text(maxVersion).Draw(t, "version"))
		require.True(t, slices.IsSortedFunc(report.VirtualServers, compareEntries))
		require.NoError(t, validate(&v1alpha1.NodeReport{Status: report}))
	})
}

// crdValidator validates objects as the API server does, the rules in CEL aside.
func crdValidator(t testing.TB, file string) func(any) error {
	t.Helper()
	data, err := os.ReadFile("../../deploy/crd/" + file)
	require.NoError(t, err)
	var external apiextensionsv1.CustomResourceDefinition
	require.NoError(t, yaml.UnmarshalStrict(data, &external))
	var props apiextensions.JSONSchemaProps
	require.NoError(t, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		external.Spec.Versions[0].Schema.OpenAPIV3Schema, &props, nil))
	schema, err := structuralschema.NewStructural(&props)
	require.NoError(t, err)
	validator, _, err := schemavalidation.NewSchemaValidator(&props)
	require.NoError(t, err)
	return func(object any) error {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return err
		}
		errs := schemavalidation.ValidateCustomResource(field.NewPath(""), content, validator)
		return append(errs, listtype.ValidateListSetsAndMaps(field.NewPath(""), schema, content)...).ToAggregate()
	}
}
