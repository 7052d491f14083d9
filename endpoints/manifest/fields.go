package manifest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// entry is one key and value of a mapping.
type entry struct{ key, value *yaml.Node }

// entries are a mapping's own entries and then the merged ones that it does not override. A key that
// is no scalar, or is there twice, is an error.
func (d *decoder) entries(n *yaml.Node) []entry {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	return d.gather(nil, n, seen, 0)
}

func (d *decoder) gather(out []entry, n *yaml.Node, seen map[string]*yaml.Node, hops int) []entry {
	if hops > maxAliasHops {
		d.errorf(n, "merges mappings more than %d deep; write the fields out", maxAliasHops)
		return out
	}
	var merges []*yaml.Node
	own := make(map[*yaml.Node]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if isMerge(key) {
			merges = append(merges, value)
			continue
		}
		key = resolveAlias(key)
		if key.Kind != yaml.ScalarNode {
			d.errorf(n.Content[i], "a key is %s, not a string", describe(key))
			continue
		}
		if first, twice := seen[key.Value]; twice {
			if hops == 0 || own[first] {
				d.in("."+clip(key.Value), func() {
					d.errorf(n.Content[i], "duplicate key, first at line %d; remove one", first.Line)
				})
			}
			continue // in a merged mapping: overridden
		}
		seen[key.Value] = key
		own[key] = true
		out = append(out, entry{key, value})
	}
	for _, m := range merges {
		for _, from := range mergeSources(m) {
			if from = resolveAlias(from); from.Kind != yaml.MappingNode {
				d.errorf(m, "the merge key << wants a mapping, this is %s", describe(from))
				continue
			}
			if !d.spend(m, 1+len(from.Content)) {
				return out
			}
			out = d.gather(out, from, seen, hops+1)
		}
	}
	return out
}

// fields are the JSON names of a struct type's fields.
type fields struct {
	types map[string]reflect.Type
	names []string // sorted
}

var fieldCache sync.Map // reflect.Type → *fields

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	f := &fields{types: make(map[string]reflect.Type)}
	f.add(t)
	f.names = slices.Sorted(maps.Keys(f.types))
	fieldCache.Store(t, f)
	return f
}

func (f *fields) add(t reflect.Type) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		switch {
		case name == "-" || !sf.IsExported():
		case name == "" && sf.Anonymous:
			f.add(sf.Type)
		case name == "":
			f.types[sf.Name] = sf.Type
		default:
			f.types[name] = sf.Type
		}
	}
}

// suggest says what could have been meant by an unknown field.
func (f *fields) suggest(name string) string {
	best, distance := "", 3 // more than two edits is another word
	for _, known := range f.names {
		d := editDistance(strings.ToLower(name), strings.ToLower(known))
		if d < distance && d < len(known) {
			best, distance = known, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(f.names) <= 12:
		return "known here: " + strings.Join(f.names, ", ")
	}
	return "remove it"
}

// editDistance is the Levenshtein distance, for the short names of fields.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
