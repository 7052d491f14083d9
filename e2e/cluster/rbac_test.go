package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

const daemonNamespace = "pointsman-system"

// rare are rights that no ordinary run needs, with what for.
var rare = map[string]string{
	"get pointsman.io/nodereports": "read again after a conflict, which takes two daemons that write one report at the same moment",
}

// unused are rights that nobody needs: there must be none. A right is "VERB GROUP/RESOURCE".
func unused(granted, used map[string]int) (out []string) {
	for right := range granted {
		if used[right] == 0 && rare[right] == "" {
			out = append(out, right)
		}
	}
	slices.Sort(out)
	return out
}

// The account of the deploy folder is refused nothing, and has no right that a life of the daemons does not use.
func TestClusterLeastPrivilege(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2))
	s.Endpoints("default", "myapp", 4)
	s.Apply(virtualServer)
	s.servesEverywhere("version=v1")
	s.switchTo("myapp", "v2")

	// A Service that is not labelled, and one that is not there: each is looked up.
	s.kubectl("label", "service", "myapp", endpoints.ServiceProxyLabel+"-")
	s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionFalse, endpoints.ReasonServiceNotLabelled)
	s.kubectl("label", "service", "myapp", endpoints.ServiceProxyLabel+"="+endpoints.ServiceProxyName)
	s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Accepted")
	// Events that differ in nothing but their text: each is one of its own.
	for range 2 {
		for _, to := range []string{"v1", "v2"} {
			s.switchTo("myapp", to)
		}
	}
	s.Eventually(Patience, "each switch is told", func() error {
		out, err := s.Kubectl("", "get", "events")
		if there, back := strings.Count(out, "switched from v1 to v2"), strings.Count(out, "switched from v2 to v1"); there != 3 || back != 2 {
			err = fmt.Errorf("%d there, %d back:\n%s", there, back, out)
		}
		return err
	})
	// What was written is deleted under the daemons.
	s.kubectl("delete", "nodereports", "--all")
	s.kubectl("delete", "lease", "-n", daemonNamespace, "--all")
	s.Eventually(Patience, "reports and leases are there again", func() error {
		reports, err := s.Kubectl("", "get", "nr", "-o", "name")
		leases, err2 := s.Kubectl("", "get", "lease", "-n", daemonNamespace, "-o", "name")
		if n, m := strings.Count(reports, "\n"), strings.Count(leases, "\n"); n != 3 || m != 4 {
			return fmt.Errorf("%d reports, %d leases", n, m)
		}
		return errors.Join(err, err2)
	})
	s.condition("myapp", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified")
	// The coordinator crashes, the others are restarted.
	leader := s.leader()
	s.daemons[leader].Kill()
	s.newLeader(leader)
	s.start(leader)
	s.ready() // before that it may end by SIGTERM itself
	// From here on as with an API server that does not stream lists (before 1.32, or told not to).
	t.Setenv("KUBE_FEATURE_WatchListClient", "false")
	for _, n := range s.Nodes {
		require.NoError(t, s.daemons[n].Terminate(Patience))
		s.start(n)
	}
	s.ready()
	s.switchTo("myapp", "v1")

	used, refused := s.audited()
	require.Empty(t, refused, "refused to the daemon")
	granted := grantedRights(t)
	var lines []string
	for _, right := range slices.Sorted(maps.Keys(used)) {
		lines = append(lines, fmt.Sprintf("%5d %s", used[right], right))
	}
	t.Logf("used:\n%s", strings.Join(lines, "\n"))
	for right := range used {
		require.Contains(t, granted, right, "used by some other right than those of deploy/rbac.yaml")
	}
	for right, why := range rare {
		require.Contains(t, granted, right, "not granted at all: %s", why)
	}
	require.Empty(t, unused(granted, used), "granted in deploy/rbac.yaml and not used")
}

// audited are the rights that the daemons' account used and how often, and requests that were refused to it.
func (c *Cluster) audited() (used map[string]int, refused []string) {
	c.t.Helper()
	text, err := askFor("/audit")
	require.NoError(c.t, err)
	used = map[string]int{}
	for line := range strings.Lines(text) {
		var e struct {
			Verb           string
			User           struct{ Username string }
			ObjectRef      *struct{ APIGroup, Resource, Subresource, Namespace string }
			RequestURI     string
			ResponseStatus struct{ Code int }
			Annotations    map[string]string
		}
		require.NoError(c.t, json.Unmarshal([]byte(line), &e), line)
		if e.User.Username != "system:serviceaccount:"+daemonNamespace+":pointsman" {
			continue
		}
		if e.Annotations["authorization.k8s.io/decision"] != "allow" || e.ResponseStatus.Code == 401 || e.ResponseStatus.Code == 403 {
			refused = append(refused, strings.TrimSpace(line))
			continue
		}
		if e.ObjectRef == nil {
			continue // what every account may: discovery
		}
		used[right(e.Verb, e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Subresource)]++
	}
	require.NotEmpty(c.t, used, "the audit log tells of no request")
	return used, refused
}

func right(verb, group, resource, subresource string) string {
	if group == "" {
		group = "core"
	}
	if subresource != "" {
		resource += "/" + subresource
	}
	return verb + " " + group + "/" + resource
}

// grantedRights are those of the rules in deploy/rbac.yaml.
func grantedRights(t *testing.T) map[string]int {
	t.Helper()
	root, err := checkout()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "deploy", "rbac.yaml"))
	require.NoError(t, err)
	out := map[string]int{}
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var role rbacv1.ClusterRole // and a Role: it differs in what is not looked at
		err := documents.Decode(&role)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						out[right(verb, group, resource, "")]++
					}
				}
			}
		}
	}
	require.NotEmpty(t, out)
	return out
}

// leader is the node whose daemon coordinates.
func (s *scene) leader() (leader *Node) {
	s.t.Helper()
	s.Eventually(Patience, "somebody coordinates", func() (err error) {
		leader, err = s.whoLeads()
		return err
	})
	return leader
}

func (s *scene) whoLeads() (*Node, error) {
	lease, err := s.Kube.CoordinationV1().Leases(daemonNamespace).Get(context.Background(), "coordinator", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if lease.Spec.HolderIdentity == nil {
		return nil, errors.New("nobody holds the lease")
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	if n := s.find(name); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("%q holds the lease", *lease.Spec.HolderIdentity)
}

// newLeader waits until another node's daemon coordinates, and says how long that took.
func (s *scene) newLeader(before *Node) (*Node, time.Duration) {
	s.t.Helper()
	var leader *Node
	took := s.Eventually(Patience, "another one coordinates", func() (err error) {
		if leader, err = s.whoLeads(); err == nil && leader == before {
			err = fmt.Errorf("%s does still", before.Name())
		}
		return err
	})
	return leader, took
}
