package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// objects is what `kubectl apply -k deploy` would send, decoded strictly: an unknown or doubled field is an error.
func objects(t *testing.T) []runtime.Object {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), ".")
	require.NoError(t, err)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme, apiextensionsv1.AddToScheme,
	} {
		require.NoError(t, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	for _, r := range made.Resources() {
		text, err := r.AsYAML()
		require.NoError(t, err)
		object, _, err := decoder.Decode(text, nil, nil)
		require.NoError(t, err, "%s", r.CurId())
		out = append(out, object)
	}
	return out
}

// only is the one object of a type.
func only[T runtime.Object](t *testing.T) T {
	t.Helper()
	var found []T
	for _, o := range objects(t) {
		if o, ok := o.(T); ok {
			found = append(found, o)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

func TestEveryFileIsApplied(t *testing.T) {
	text, err := os.ReadFile("kustomization.yaml")
	require.NoError(t, err)
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	crds, err := filepath.Glob("crd/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, crds)
	for _, file := range append(files, crds...) {
		if file != "kustomization.yaml" {
			require.Contains(t, string(text), "- "+file)
		}
	}
}

func TestObjectsFitTogether(t *testing.T) {
	daemons := only[*appsv1.DaemonSet](t)
	namespace := only[*corev1.Namespace](t)
	account := only[*corev1.ServiceAccount](t)
	require.Equal(t, namespace.Name, daemons.Namespace)
	require.Equal(t, namespace.Name, account.Namespace)
	require.Equal(t, account.Name, daemons.Spec.Template.Spec.ServiceAccountName)

	selector, err := metav1.LabelSelectorAsSelector(daemons.Spec.Selector)
	require.NoError(t, err)
	require.False(t, selector.Empty())
	require.True(t, selector.Matches(labels.Set(daemons.Spec.Template.Labels)))

	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
	cluster, role := only[*rbacv1.ClusterRoleBinding](t), only[*rbacv1.RoleBinding](t)
	require.Equal(t, subject, cluster.Subjects)
	require.Equal(t, subject, role.Subjects)
	require.Equal(t, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: only[*rbacv1.ClusterRole](t).Name}, cluster.RoleRef)
	require.Equal(t, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: only[*rbacv1.Role](t).Name}, role.RoleRef)
	require.Equal(t, namespace.Name, role.Namespace)
	require.Equal(t, namespace.Name, only[*rbacv1.Role](t).Namespace)

	pod := daemons.Spec.Template.Spec
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		require.True(t, volumes[m.Name], "volume %s", m.Name)
		delete(volumes, m.Name)
	}
	require.Empty(t, volumes, "volumes that nothing mounts")
}

// TestGrants holds the rules to the list that was thought through: more is an escalation, less a
// daemon that does not work.
func TestGrants(t *testing.T) {
	flat := func(rules []rbacv1.PolicyRule) []string {
		var out []string
		for _, r := range rules {
			require.Empty(t, r.NonResourceURLs)
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					for _, verb := range r.Verbs {
						for _, part := range []string{group, resource, verb} {
							require.NotContains(t, part, "*")
						}
						out = append(out, strings.Trim(resource+"."+group, ".")+" "+verb)
					}
				}
			}
		}
		slices.Sort(out)
		return out
	}
	require.Equal(t, []string{
		"endpointslices.discovery.k8s.io list", "endpointslices.discovery.k8s.io watch",
		"events.events.k8s.io create",
		"nodereports.pointsman.io create", "nodereports.pointsman.io get", "nodereports.pointsman.io list", "nodereports.pointsman.io watch",
		"nodereports/status.pointsman.io update",
		"nodes get",
		"pods list", "pods watch",
		"services get", "services list", "services watch",
		"virtualservers.pointsman.io list", "virtualservers.pointsman.io watch",
		"virtualservers/status.pointsman.io update",
	}, flat(only[*rbacv1.ClusterRole](t).Rules))
	require.Equal(t, []string{
		"leases.coordination.k8s.io create", "leases.coordination.k8s.io get", "leases.coordination.k8s.io list",
		"leases.coordination.k8s.io update", "leases.coordination.k8s.io watch",
	}, flat(only[*rbacv1.Role](t).Rules))
}

// TestGrantsNameOurResources: a rule for a resource that no CRD has, say after a rename, would be silently void.
func TestGrantsNameOurResources(t *testing.T) {
	known := map[string]bool{}
	for _, o := range objects(t) {
		if crd, ok := o.(*apiextensionsv1.CustomResourceDefinition); ok {
			require.Equal(t, "pointsman.io", crd.Spec.Group)
			known[crd.Spec.Names.Plural] = true
			for _, v := range crd.Spec.Versions {
				if v.Subresources != nil && v.Subresources.Status != nil {
					known[crd.Spec.Names.Plural+"/status"] = true
				}
			}
		}
	}
	for _, r := range only[*rbacv1.ClusterRole](t).Rules {
		if slices.Equal(r.APIGroups, []string{"pointsman.io"}) {
			for _, resource := range r.Resources {
				require.True(t, known[resource], resource)
			}
		}
	}
}

// sources opens the folders that the program is built from. Go's test cache knows of what a test opens, and
// not of what a compiler that it starts reads: a change of the program would pass untested.
func sources(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", ".cache", "bin"}, d.Name()) {
			return fs.SkipDir
		}
		return err
	}))
}

// flags are those that `pointsman run` has.
func flags(t *testing.T) []string {
	t.Helper()
	sources(t, "..")
	help, err := exec.Command(os.Getenv(binary), "run", "--help").CombinedOutput()
	require.NoError(t, err, "%s", help)
	found := regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z-]+)`).FindAllStringSubmatch(string(help), -1)
	var out []string
	for _, f := range found {
		out = append(out, f[1])
	}
	require.Contains(t, out, "--state-dir")
	return out
}

func TestArgumentsFitTheProgram(t *testing.T) {
	c := only[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0]
	require.Empty(t, c.Command, "the image's entrypoint is the program")
	require.Equal(t, "run", c.Args[0])
	has := flags(t)
	address := ""
	for _, arg := range c.Args[1:] {
		name, value, _ := strings.Cut(arg, "=")
		require.Contains(t, has, name)
		if name == "--health-address" {
			address = value
		}
	}
	for _, v := range c.Env {
		name, ours := strings.CutPrefix(v.Name, "POINTSMAN_")
		require.True(t, ours, v.Name)
		require.Contains(t, has, "--"+strings.ToLower(strings.ReplaceAll(name, "_", "-")))
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		require.Equal(t, address, probe.HTTPGet.Host+":"+probe.HTTPGet.Port.String())
	}
	require.Empty(t, c.Ports, "on the host's network a port is a host port")
}

// TestPrivileges holds the pod to its two capabilities and three mounts; container_test.go shows
// that it needs them.
func TestPrivileges(t *testing.T) {
	pod := only[*appsv1.DaemonSet](t).Spec.Template.Spec
	require.Len(t, pod.Containers, 1)
	require.Empty(t, pod.InitContainers)
	require.False(t, pod.HostPID || pod.HostIPC)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
	s := pod.Containers[0].SecurityContext
	require.False(t, *s.Privileged || *s.AllowPrivilegeEscalation)
	require.True(t, *s.ReadOnlyRootFilesystem)
	require.Nil(t, s.ProcMount)
	require.Equal(t, []corev1.Capability{"ALL"}, s.Capabilities.Drop)
	require.Equal(t, []corev1.Capability{"NET_ADMIN", "PERFMON"}, s.Capabilities.Add)
	writable := []string{}
	for _, m := range pod.Containers[0].VolumeMounts {
		if !m.ReadOnly {
			writable = append(writable, m.MountPath)
		}
	}
	require.Equal(t, []string{"/var/lib/pointsman", "/host/proc/sys/net"}, writable)
}
