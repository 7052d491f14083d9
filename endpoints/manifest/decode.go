package manifest

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
)

// Bounds on what one file may cost, far above any honest one.
const (
	maxDepth   = 64      // nesting of mappings and lists
	maxAliased = 200_000 // values that come from aliases
)

// decoder checks one object's nodes against its Go type and writes them as JSON on the way. The JSON
// decoder alone knows no lines, and YAML's knows neither json tags nor strictness.
type decoder struct {
	*parser
	object  string
	json    []byte
	path    []string
	aliases int // aliases we are inside of
}

// decode fills into, a pointer to an API type, and tells whether it could.
func (d *decoder) decode(n *yaml.Node, into any) bool {
	before := len(d.errs)
	d.value(n, reflect.TypeOf(into).Elem())
	if len(d.errs) > before {
		return false
	}
	strict, err := kjson.UnmarshalStrict(d.json, into)
	if err != nil {
		strict = append(strict, err)
	}
	for _, e := range strict {
		var at kjson.FieldError
		if fe, ok := e.(kjson.FieldError); ok {
			at = fe
		}
		if at != nil {
			d.fail(locate(n, at.FieldPath()), d.object, at.FieldPath(), "%s", clip(e.Error()))
		} else {
			d.fail(n, d.object, "", "%s", clip(e.Error()))
		}
	}
	return len(strict) == 0
}

func (d *decoder) errorf(at *yaml.Node, format string, args ...any) {
	d.fail(at, d.object, strings.TrimPrefix(strings.Join(d.path, ""), "."), format, args...)
}

func (d *decoder) in(step string, f func()) {
	d.path = append(d.path, step)
	f()
	d.path = d.path[:len(d.path)-1]
}

// value writes n, which is to fill a t. After an error what was written is of no use, but the walk
// goes on so that one look shows all that is wrong.
func (d *decoder) value(n *yaml.Node, t reflect.Type) {
	if len(d.path) > maxDepth {
		d.errorf(n, "is nested more than %d deep; an anchor that contains itself does this too", maxDepth)
		return
	}
	if n.Kind == yaml.AliasNode {
		d.aliases++
		defer func() { d.aliases-- }()
		n = resolveAlias(n)
	}
	if d.aliases > 0 && !d.spend(n, 1) {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case isNull(n):
		d.json = append(d.json, "null"...)
	case reflect.PointerTo(t).Implements(unmarshaler):
		d.opaque(n, t)
	default:
		d.typed(n, t)
	}
}

// spend takes what aliases or merges add from the file's budget, and tells whether there was enough.
func (d *decoder) spend(at *yaml.Node, values int) bool {
	was := d.budget
	d.budget -= values
	if was >= 0 && d.budget < 0 {
		d.errorf(at, "aliases stand for more than %d values; write them out or use fewer", maxAliased)
	}
	return d.budget >= 0
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (d *decoder) typed(n *yaml.Node, t reflect.Type) {
	switch t.Kind() {
	case reflect.Struct:
		if d.isKind(n, yaml.MappingNode, "a mapping") {
			d.structure(n, t)
		}
	case reflect.Map:
		if d.isKind(n, yaml.MappingNode, "a mapping") {
			d.mapping(n, t.Elem())
		}
	case reflect.Slice:
		if d.isKind(n, yaml.SequenceNode, "a list") {
			d.sequence(n, t.Elem())
		}
	case reflect.Interface: // within a value that decodes itself
		d.any(n)
	default:
		if d.isKind(n, yaml.ScalarNode, scalarName(t)) {
			d.scalar(n, t)
		}
	}
}

func (d *decoder) isKind(n *yaml.Node, kind yaml.Kind, want string) bool {
	if n.Kind != kind {
		d.errorf(n, "is %s, not %s", describe(n), want)
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		switch tag := n.ShortTag(); tag {
		case "!!str", "!!map", "!!seq":
		default:
			d.errorf(n, "has the tag %s; remove the tag", clip(tag))
			return false
		}
	}
	return true
}

func (d *decoder) structure(n *yaml.Node, t reflect.Type) {
	fields := fieldsOf(t)
	d.json = append(d.json, '{')
	first := true
	for _, e := range d.entries(n) {
		if d.full() || d.budget < 0 {
			return
		}
		d.in("."+clip(e.key.Value), func() {
			f, known := fields.types[e.key.Value]
			if !known {
				d.errorf(e.key, "unknown field; %s", fields.suggest(e.key.Value))
				return
			}
			d.comma(&first)
			d.string(e.key.Value)
			d.json = append(d.json, ':')
			d.value(e.value, f)
		})
	}
	d.json = append(d.json, '}')
}

func (d *decoder) mapping(n *yaml.Node, elem reflect.Type) {
	d.json = append(d.json, '{')
	first := true
	for _, e := range d.entries(n) {
		if d.full() || d.budget < 0 {
			return
		}
		d.in("["+clip(e.key.Value)+"]", func() {
			if !isString(e.key) {
				d.errorf(e.key, "the key is %s, not a string; quote it: %q", describe(e.key), e.key.Value)
				return
			}
			d.comma(&first)
			d.string(e.key.Value)
			d.json = append(d.json, ':')
			d.element(e.value, elem)
		})
	}
	d.json = append(d.json, '}')
}

func (d *decoder) sequence(n *yaml.Node, elem reflect.Type) {
	d.json = append(d.json, '[')
	first := true
	for i, item := range n.Content {
		if d.full() || d.budget < 0 {
			return
		}
		d.in("["+strconv.Itoa(i)+"]", func() {
			d.comma(&first)
			d.element(item, elem)
		})
	}
	d.json = append(d.json, ']')
}

// element refuses null where a field could merely be left out: in a list or a map it would turn into
// an empty value that nobody wrote.
func (d *decoder) element(n *yaml.Node, t reflect.Type) {
	if isNull(resolveAlias(n)) && t.Kind() != reflect.Interface {
		d.errorf(n, "is null; give a value or remove it")
		return
	}
	d.value(n, t)
}

func (d *decoder) comma(first *bool) {
	if !*first {
		d.json = append(d.json, ',')
	}
	*first = false
}

func (d *decoder) string(s string) {
	text, err := json.Marshal(s)
	if err != nil { // no string fails
		panic(err)
	}
	d.json = append(d.json, text...)
}
