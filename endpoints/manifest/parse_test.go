package manifest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "rewrite the expected errors in testdata")

// TestErrors reads testdata/errors.txtar: manifests, each followed by the errors that it gives.
func TestErrors(t *testing.T) {
	path := filepath.Join("testdata", "errors.txtar")
	archive, err := txtar.ParseFile(path)
	require.NoError(t, err)
	seen := 0
	for i := 0; i+1 < len(archive.Files); i += 2 {
		in, want := archive.Files[i], &archive.Files[i+1]
		require.Equal(t, in.Name+".errors", want.Name)
		seen++
		t.Run(in.Name, func(t *testing.T) {
			file, errs := Parse("/etc/manifests/"+in.Name, in.Data)
			var got strings.Builder
			for _, e := range errs {
				fmt.Fprintln(&got, e)
			}
			if *update {
				want.Data = []byte(got.String())
				return
			}
			assert.Nil(t, file)
			assert.Equal(t, string(want.Data), got.String())
		})
	}
	assert.GreaterOrEqual(t, seen, 30)
	if *update {
		require.NoError(t, os.WriteFile(path, txtar.Format(archive), 0o644))
	}
}

const good = `apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp}
spec:
  service: {name: myapp}
  active: v1
`

// TestBytes holds what a text archive cannot.
func TestBytes(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want string
	}{
		"NUL":                 {good + "# \x00", "m.yaml:7:3: holds a NUL byte, so it is no text or was not written to its end; save it again as UTF-8"},
		"Latin-1":             {good + "# caf\xe9\n", "m.yaml:7:6: byte 0xe9 is not UTF-8; save the file as UTF-8"},
		"UTF-16":              {"\xff\xfea\x00", "m.yaml:1: is UTF-16; save the file as UTF-8"},
		"control character":   {good + "# \x01\n", "m.yaml:7:3: holds the character U+0001, which YAML does not allow; remove it"},
		"huge":                {strings.Repeat("#", MaxBytes+1), "m.yaml: is 4194305 bytes long, more than the 4194304 allowed; split it into several files"},
		"carriage returns":    {strings.ReplaceAll(strings.Replace(good, "active", "actve", 1), "\n", "\r\n"), `m.yaml:6:3: VirtualServer default/myapp: spec.actve: unknown field; did you mean "active"?`},
		"unprintable name":    {strings.Replace(good, "name: myapp}\ns", "name: \"a\\u0007b\"}\ns", 1), `m.yaml:3:18: VirtualServer default/"a\ab": metadata.name: Invalid value: "a\ab": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		"a separator":         {"---\n", "m.yaml: holds no object; remove the file to remove its objects"},
		"anchor of itself":    {"apiVersion: v1\nkind: Service\nmetadata: &m\n  name: x\n  annotations: *m\n", ""},
		"merge of itself":     {"apiVersion: v1\nkind: Service\nmetadata: &m\n  name: x\n  <<: *m\n", ""},
		"only a byte order":   {"\ufeff", "m.yaml: holds no object; remove the file to remove its objects"},
		"empty":               {"", "m.yaml: holds no object; remove the file to remove its objects"},
		"comments only":       {"# v1\n---\n# v2\n", "m.yaml: holds no object; remove the file to remove its objects"},
		"null documents only": {"---\n---\nnull\n...\n", "m.yaml: holds no object; remove the file to remove its objects"},
	} {
		t.Run(name, func(t *testing.T) {
			file, errs := Parse("m.yaml", []byte(c.data))
			assert.Nil(t, file)
			require.NotEmpty(t, errs)
			if c.want != "" {
				assert.Equal(t, c.want, errs[0].Error())
			}
		})
	}
}

// TestBombs holds every input that is meant to exhaust a reader to a time that an operator would not
// notice.
func TestBombs(t *testing.T) {
	lol := "a0: &a0 {x: y}\n"
	for i := 1; i < 40; i++ {
		lol += fmt.Sprintf("a%d: &a%d {x: *a%d, z: *a%d}\n", i, i, i-1, i-1)
	}
	merges := "m0: &m0 {x0: y}\n"
	for i := 1; i < 40; i++ {
		merges += fmt.Sprintf("m%d: &m%d {<<: [*m%d, *m%d], x%d: y}\n", i, i, i-1, i-1, i)
	}
	many := "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  annotations: &a\n"
	for i := range 2000 {
		many += fmt.Sprintf("    k%d: v\n", i)
	}
	many += "  ownerReferences:\n" + strings.Repeat("  - *a\n", 2000)
	for name, data := range map[string]string{
		"aliases":         "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  managedFields:\n  - fieldsV1:\n" + indent(lol, "      "),
		"merges":          "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  managedFields:\n  - fieldsV1:\n" + indent(merges, "      "),
		"merges, wide":    "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  managedFields:\n  - fieldsV1:\n      a: &a {b: c}\n      d: {<<: [" + strings.Repeat("*a,", 300_000) + "]}\n",
		"deep values":     "apiVersion: v1\nkind: Service\nmetadata: {name: x, managedFields: [{fieldsV1: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}]}\n",
		"many uses":       many,
		"deep flow":       "a: " + strings.Repeat("[", 200_000),
		"deep flow maps":  strings.Repeat("{a: ", 200_000),
		"deep flow even":  "apiVersion: v1\nkind: Service\nspec: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"deep block":      deepBlock(2500),
		"deep sequence":   strings.Repeat("- ", 100_000),
		"many documents":  strings.Repeat("---\n", 1_000_000),
		"many anchors":    strings.Repeat("- &a x\n", 200_000),
		"long scalar":     "a: " + strings.Repeat("x", 3<<20),
		"long comment":    "a: b #" + strings.Repeat("x", 3<<20),
		"comments":        "a:\n" + strings.Repeat("# x\n", 500_000),
		"quotes":          strings.Repeat(`"`, 1<<20),
		"question marks":  strings.Repeat("? ", 100_000),
		"wide and wrong":  "apiVersion: v1\nkind: Service\nspec:\n" + wide(100_000),
		"tags":            strings.Repeat("!!str ", 100_000),
		"percent":         strings.Repeat("%YAML 1.1\n", 10_000),
		"colons":          strings.Repeat(":", 1<<20),
		"unclosed braces": strings.Repeat("{", 9_000),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			file, errs := Parse("m.yaml", []byte(data))
			took := time.Since(start)
			assert.Nil(t, file)
			require.NotEmpty(t, errs)
			assert.LessOrEqual(t, len(errs), maxErrors)
			for _, e := range errs {
				assert.Less(t, len(e.Error()), 2000)
			}
			t.Logf("%v: %v", took, errs[0])
			assert.Less(t, took, 10*time.Second)
			assert.Contains(t, errs[0].Error(), map[string]string{
				"aliases":        "aliases stand for more than 200000 values",
				"merges":         "aliases stand for more than 200000 values",
				"merges, wide":   "aliases stand for more than 200000 values",
				"many documents": "holds more than 20000 documents",
				"deep values":    "is nested more than 64 deep",
			}[name])
		})
	}
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}

func deepBlock(n int) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Service\nspec:\n")
	for i := 1; i < n; i++ {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func wide(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  field%d: x\n", i)
	}
	return b.String()
}

// TestAccepted reads what must not be refused.
func TestAccepted(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: myapp}\nspec: {ports: [{port: 80}]}\n"
	for name, c := range map[string]struct {
		file string
		data string
		keys []string
	}{
		"one":             {"m.yaml", good, []string{"VirtualServer default/myapp"}},
		"byte order mark": {"m.yaml", "\ufeff" + good, []string{"VirtualServer default/myapp"}},
		"CRLF":            {"m.yaml", strings.ReplaceAll(good, "\n", "\r\n"), []string{"VirtualServer default/myapp"}},
		"two documents":   {"m.yml", "---\n" + good + "---\n# nothing\n---\n" + service + "...\n", []string{"VirtualServer default/myapp", "Service default/myapp"}},
		"list":            {"m.yaml", "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- " + strings.TrimSpace(strings.ReplaceAll(good, "\n", "\n  ")) + "\n", []string{"VirtualServer default/myapp"}},
		"json":            {"m.json", "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"myapp\", \"annotations\": {\"a\": \"\\u00e9\"}},\n\t\"spec\": {\"ports\": [{\"port\": 80}]}\n}", []string{"Service default/myapp"}},
		"merge key":       {"m.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: myapp, labels: &l {a: b}, annotations: {<<: *l, c: d}}\nspec: {ports: [{port: 80}]}\n", []string{"Service default/myapp"}},
		"alias":           {"m.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: &n myapp, labels: {app: *n}}\nspec: {ports: [{port: 80}]}\n", []string{"Service default/myapp"}},
		"kubectl get": {"m.yaml", `apiVersion: v1
kind: Service
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"v1"}
  creationTimestamp: "2026-01-02T03:04:05Z"
  managedFields:
  - apiVersion: v1
    fieldsType: FieldsV1
    fieldsV1:
      f:spec:
        f:ports:
          .: {}
          k:{"port":80,"protocol":"TCP"}: {}
    manager: kubectl
    operation: Update
    time: "2026-01-02T03:04:05Z"
  name: myapp
  namespace: shop
  resourceVersion: "123"
  uid: 4d1c6a3e-0000-4000-8000-000000000000
spec:
  clusterIP: 10.96.0.10
  clusterIPs:
  - 10.96.0.10
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  ipFamilyPolicy: SingleStack
  ports:
  - name: http
    port: 80
    protocol: TCP
    targetPort: http
  selector:
    app: myapp
  sessionAffinity: None
  type: ClusterIP
status:
  loadBalancer: {}
`, []string{"Service shop/myapp"}},
		"all of a VirtualServer": {"m.yaml", `apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp, namespace: shop, creationTimestamp: null}
spec:
  service: {name: myapp}
  colourLabel: example.com/colour
  active: "1.10"
  preview: {colour: v2, nodePort: 31080, sources: [192.0.2.0/24, "2001:db8::/64"]}
  scheduler: {name: sh, flags: [sh-fallback, flag-2]}
  forwarding: direct
  steering: Mark
  switch:
    gate: {minReady: 3, probe: {http: {port: 8080, path: /ready, status: 204, body: ok}}, nodes: 50%, timeout: 30s}
    steps: [{weight: 10, hold: 2m}, {weight: 50, hold: 1h}]
    observe: {window: 10m, minReady: 80%, onFailure: Hold}
    drain: {timeout: 5m, onTimeout: Cut}
status: {active: v1, phase: Steady, nodes: {total: 1, staged: 1, switched: 1}}
`, []string{"VirtualServer shop/myapp"}},
	} {
		t.Run(name, func(t *testing.T) {
			file, errs := Parse(c.file, []byte(c.data))
			require.Empty(t, errs)
			var keys []string
			for _, k := range file.Keys {
				keys = append(keys, k.String())
			}
			assert.Equal(t, c.keys, keys)
			assert.Len(t, file.Digest, 64)
		})
	}
}

func TestServiceDefaults(t *testing.T) {
	file, errs := Parse("m.yaml", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80, nodePort: 30080}]}\n"))
	require.Empty(t, errs)
	s := file.Services[0]
	assert.Equal(t, "default", s.Namespace)
	assert.Equal(t, corev1.ProtocolTCP, s.Spec.Ports[0].Protocol)
	assert.EqualValues(t, 10800, *s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds)
	assert.Equal(t, corev1.ServiceExternalTrafficPolicyCluster, s.Spec.ExternalTrafficPolicy)
}

func FuzzManifest(f *testing.F) {
	archive, err := txtar.ParseFile(filepath.Join("testdata", "errors.txtar"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		f.Add(file.Data)
	}
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? {a: b}\n: c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{"m.yaml", "m.json"} {
			file, errs := Parse(name, data)
			if (file == nil) != (len(errs) > 0) {
				t.Fatalf("file %v, errors %v", file, errs)
			}
			for _, e := range errs {
				if !strings.HasPrefix(e.Error(), name) || e.Message == "" {
					t.Fatalf("error %q", e)
				}
			}
		}
	})
}
