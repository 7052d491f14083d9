package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

func (d *decoder) scalar(n *yaml.Node, t reflect.Type) {
	switch t.Kind() {
	case reflect.String:
		if !isString(n) {
			d.errorf(n, "is %s, not a string; quote it: %q", describe(n), clip(n.Value))
			return
		}
		d.string(n.Value)
	case reflect.Bool:
		if isString(n) || n.ShortTag() != "!!bool" {
			d.errorf(n, "is %s, not true or false; write one of these without quotes", describe(n))
			return
		}
		d.json = append(d.json, strings.ToLower(n.Value)...)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.integer(n, t)
	default:
		d.errorf(n, "cannot be given in a manifest; remove it")
	}
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (d *decoder) integer(n *yaml.Node, t reflect.Type) {
	if n.ShortTag() != "!!int" || !decimal.MatchString(n.Value) {
		mend := "write a decimal number"
		if isString(n) && decimal.MatchString(n.Value) {
			mend = "remove the quotes"
		}
		d.errorf(n, "is %s, not a whole number; %s", describe(n), mend)
		return
	}
	if _, err := strconv.ParseInt(n.Value, 10, t.Bits()); err != nil {
		d.errorf(n, "%s is out of range; it must fit %d bits", clip(n.Value), t.Bits())
		return
	}
	d.json = append(d.json, n.Value...)
}

// opaque writes a value whose type decodes itself, and has it tried at once while the line is known.
func (d *decoder) opaque(n *yaml.Node, t reflect.Type) {
	from := len(d.json)
	before := len(d.errs)
	d.any(n)
	if len(d.errs) > before || d.budget < 0 {
		return
	}
	if err := json.Unmarshal(d.json[from:], reflect.New(t).Interface()); err != nil {
		d.errorf(n, "is %s, not %s", describe(n), opaqueName(t, err))
		return
	}
	// The value no longer knows how it was written, and the CRD bounds the text.
	if t == reflect.TypeFor[metav1.Duration]() && utf8.RuneCountInString(n.Value) > v1alpha1.MaxDurationText {
		d.errorf(n, "is %s, longer than %d characters; write it shorter, as in 30s or 5m", describe(n), v1alpha1.MaxDurationText)
	}
}

func opaqueName(t reflect.Type, err error) string {
	switch t {
	case reflect.TypeFor[metav1.Duration]():
		return "a duration; write a number with its unit, as in 30s or 5m"
	case reflect.TypeFor[intstr.IntOrString]():
		return `a number or a percentage; write it as in 3 or "80%"`
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return "a time; write it as in 2026-01-02T15:04:05Z"
	}
	return fmt.Sprintf("as expected: %s", clip(err.Error()))
}

// any writes a node by its own type.
func (d *decoder) any(n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		d.mapping(n, reflect.TypeFor[any]())
	case yaml.SequenceNode:
		d.sequence(n, reflect.TypeFor[any]())
	default:
		switch tag := n.ShortTag(); {
		case tag == "!!int" && decimal.MatchString(n.Value):
			d.json = append(d.json, n.Value...)
		case tag == "!!bool" && !isString(n):
			d.json = append(d.json, strings.ToLower(n.Value)...)
		default:
			d.string(n.Value)
		}
	}
}

// isString tells whether a scalar is a string to every YAML reader.
func isString(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return false
	}
	return n.Style != 0 || !yaml11Bool[n.Value]
}

func scalarName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "a boolean"
	}
	return "a number"
}
