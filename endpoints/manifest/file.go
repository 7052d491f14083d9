package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// MaxBytes is the size above which a file is refused: 4 MiB hold some 40,000 endpoints, and as YAML's
// nodes the worst of it takes a few hundred megabytes for a moment.
const MaxBytes = 4 << 20

// File is what one manifest file declares. It is not changed after it was parsed.
type File struct {
	Digest         string // hex SHA-256 of the bytes
	VirtualServers []*v1alpha1.VirtualServer
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	Keys           []Key // of every object, in the file's order
}

// Key identifies an object among all manifests.
type Key struct {
	Kind string
	types.NamespacedName
}

func (k Key) String() string { return k.Kind + " " + k.NamespacedName.String() }

// Error is one thing wrong with a file.
type Error struct {
	File         string // base name
	Line, Column int    // from 1; 0: unknown
	Object       string // "kind namespace/name", or ""
	Field        string // path in the object, or ""
	Message      string // value and mend
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	for _, part := range []string{e.Object, e.Field, e.Message} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	return b.String()
}

// Digest is the hex SHA-256 by which a manifest's text is known.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
