package cluster

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/apicases"
)

// A real API server says of each case of the shared table what the table says, and kubectl shows the kinds.
func TestClusterCases(t *testing.T) {
	c := New(t)
	c.install()
	cases, err := apicases.Load()
	require.NoError(t, err)
	require.Greater(t, len(cases), 30)
	client := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("virtualservers"))
	valid := 0
	for _, one := range cases {
		var object map[string]any
		require.NoError(t, yaml.NewYAMLOrJSONDecoder(bytes.NewReader(one.Manifest), 4096).Decode(&object), one.Name)
		_, err := client.Namespace("default").Create(context.Background(), &unstructured.Unstructured{Object: object},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		if one.Valid() {
			valid++
			assert.NoError(t, err, one.Name)
			continue
		}
		if assert.Error(t, err, "%s is accepted", one.Name) {
			for _, piece := range one.FromAPIServer() {
				assert.Contains(t, err.Error(), piece, one.Name)
			}
		}
	}
	t.Logf("%d cases, %d of them right", len(cases), valid)

	for path, says := range map[string]string{
		"vs":                      "VirtualServer declares which colour",
		"vs.spec.active":          "new connections",
		"vs.spec.switch.drain":    "drain",
		"vs.status.conditions":    "conditions",
		"nr.status":               "FIELDS:",
		"virtualservers.status":   "history",
		"nodereports.status.node": "", // no such field
	} {
		if says == "" {
			_, err := c.Kubectl("", "explain", path)
			require.ErrorContains(t, err, "does not exist", path)
			continue
		}
		// A CRD is served some time before discovery tells of it.
		c.Eventually(Patience, "kubectl explains "+path, func() error {
			out, err := c.Kubectl("", "explain", path)
			if err == nil && !strings.Contains(out, says) {
				err = fmt.Errorf("it says:\n%s", out)
			}
			return err
		})
	}
	c.Apply(virtualServer)
	header := strings.Fields(strings.SplitN(c.kubectl("get", "vs"), "\n", 2)[0])
	require.Equal(t, []string{"NAME", "ACTIVE", "PHASE", "READY", "NODES", "AGE"}, header)
	c.kubectl("get", "virtualserver.pointsman.io", "myapp")
	_, err = c.Kubectl("", "patch", "vs", "myapp", "--type=merge", "-p", `{"status":{"active":"v9"}}`)
	require.NoError(t, err) // and changes nothing: status is a subresource
	vs, err := c.virtualServer("myapp")
	require.NoError(t, err)
	require.Empty(t, vs.Status.Active)
}
