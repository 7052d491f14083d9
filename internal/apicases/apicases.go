// Package apicases is the table of VirtualServers that are right or wrong, with what is said of the
// wrong ones. Whatever checks a VirtualServer is tested with it: the manifest reader, the CRD's schema,
// and an API server that the CRD was applied to.
//
// It is not a validator and holds no rule of its own; the rules are in api/v1alpha1. It is for tests:
// the program does not import it.
//
// A caller may rely on this: a case is refused by everyone or by nobody, and its Manifest is one whole
// object in namespace default that means the same to every YAML reader. (An API server is to be asked with
// fieldValidation=Strict, and with dryRun=All, since most have one name.) What is wrong with the text itself, rather than with
// the object, is in endpoints/manifest/testdata.
//
// To add a case, add a file to cases.txtar; its first lines say how.
package apicases

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

//go:embed cases.txtar
var archive []byte

// Case is one VirtualServer.
type Case struct {
	Name     string // unique, fit for the name of a test
	Manifest []byte // the whole object, as YAML
	// What a refusal has to contain: any refusal, the manifest reader's, the API server's. All are
	// empty when the object is right.
	refused, manifest, apiServer []string
}

// Valid tells whether everyone accepts it.
func (c Case) Valid() bool { return len(c.refused) == 0 }

// FromManifest is what a refusal by the manifest reader has to contain.
func (c Case) FromManifest() []string { return slices.Concat(c.refused, c.manifest) }

// FromAPIServer is what a refusal by an API server has to contain.
func (c Case) FromAPIServer() []string { return slices.Concat(c.refused, c.apiServer) }

const head = `apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp, namespace: default}
`

var expectation = regexp.MustCompile(`^# (refused|manifest|apiserver): (.+)$`)

// Load is the table. An error is a mistake in the table.
func Load() ([]Case, error) {
	var cases []Case
	seen := map[string]bool{}
	for _, file := range txtar.Parse(archive).Files {
		name, isYAML := strings.CutSuffix(file.Name, ".yaml")
		if !isYAML || seen[name] {
			return nil, fmt.Errorf("cases.txtar: %s: not a .yaml, or there twice", file.Name)
		}
		seen[name] = true
		c := Case{Name: name}
		body := string(file.Data)
		for strings.HasPrefix(body, "#") {
			line, rest, _ := strings.Cut(body, "\n")
			m := expectation.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("cases.txtar: %s: %q is none of # refused:, # manifest: and # apiserver: with a text", file.Name, line)
			}
			switch m[1] {
			case "refused":
				c.refused = append(c.refused, m[2])
			case "manifest":
				c.manifest = append(c.manifest, m[2])
			case "apiserver":
				c.apiServer = append(c.apiServer, m[2])
			}
			body = rest
		}
		if len(c.refused) == 0 && len(c.manifest)+len(c.apiServer) > 0 {
			return nil, fmt.Errorf("cases.txtar: %s: has no # refused: line and would pass for right", file.Name)
		}
		if !strings.HasPrefix(body, "apiVersion:") {
			body = head + body
		}
		c.Manifest = []byte(body)
		cases = append(cases, c)
	}
	return cases, nil
}
