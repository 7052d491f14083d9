package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// ErrNotDeclared: the file does not declare the VirtualServer.
var ErrNotDeclared = errors.New("is not declared in the file")

// Change is what [Edit] sets; nil is left as it is.
type Change struct {
	Active *string // spec.active
	Force  *string // spec.switch.force; "": none
	Paused *bool   // spec.switch.paused
}

// To makes spec what it is after the change.
func (c Change) To(spec *v1alpha1.VirtualServerSpec) {
	if c.Active != nil {
		spec.Active = *c.Active
	}
	if c.Force != nil {
		spec.Switch.Force = *c.Force
	}
	if c.Paused != nil {
		spec.Switch.Paused = *c.Paused
	}
}

// Edit changes values of one VirtualServer in a manifest's text, and leaves every other byte as it is. A field
// that is not there is added; one that is to be nothing any more gets its zero value. The result has been parsed
// again: it declares what the old text did, but for the change. Without a difference the text comes back unchanged.
func Edit(path string, data []byte, key types.NamespacedName, c Change) (edited []byte, was *v1alpha1.VirtualServer, err error) {
	for _, colour := range []*string{c.Active, c.Force} {
		if colour == nil || colour == c.Force && *colour == "" {
			continue
		}
		if wrong := v1alpha1.ValidateColour(*colour); len(wrong) > 0 {
			return nil, nil, fmt.Errorf("colour %q %s", clip(*colour), strings.Join(wrong, "; "))
		}
	}
	p := parse(path, data)
	if len(p.errs) > 0 {
		return nil, nil, fmt.Errorf("mend the manifest first: %w", p.errs[0])
	}
	if was = p.virtualServer(key); was == nil {
		return nil, nil, ErrNotDeclared
	}
	edited = data
	for _, one := range c.each(&was.Spec) {
		if edited, err = edit(path, edited, key, one); err != nil {
			return nil, nil, err
		}
	}
	return edited, was, nil
}

// one is a change of one field.
type one struct {
	field   []string // below spec
	text    string   // of the value
	plain   bool     // the value is no string
	example string
	change  Change
}

// each is the fields that a change makes different.
func (c Change) each(spec *v1alpha1.VirtualServerSpec) []one {
	var out []one
	if c.Active != nil && *c.Active != spec.Active {
		out = append(out, one{[]string{"active"}, *c.Active, false, "active: v1", Change{Active: c.Active}})
	}
	if c.Force != nil && *c.Force != spec.Switch.Force {
		out = append(out, one{[]string{"switch", "force"}, *c.Force, false, "switch: {force: v1}", Change{Force: c.Force}})
	}
	if c.Paused != nil && *c.Paused != spec.Switch.Paused {
		out = append(out, one{[]string{"switch", "paused"}, fmt.Sprint(*c.Paused), true, "switch: {paused: true}", Change{Paused: c.Paused}})
	}
	return out
}

// edit makes a change of one field, in the first way that does that and no more.
func edit(path string, data []byte, key types.NamespacedName, o one) ([]byte, error) {
	p := parse(path, data)
	object := p.objects[Key{v1alpha1.KindVirtualServer, key}]
	if len(p.errs) > 0 || object == nil {
		return nil, ErrNotDeclared // Edit has seen it; the text is its own
	}
	spec := fieldOf(object, "spec")
	at := spec // where errors point to
	var ways []splice
	var err error
	parent, name := spec, o.field[len(o.field)-1]
	for _, above := range o.field[:len(o.field)-1] {
		parent = fieldOf(parent, above)
	}
	switch {
	case parent == nil:
		ways = insertions(data, object, "spec", o.field[0], "{"+name+": "+o.rendered()+"}", `{"`+name+`": `+o.json()+"}")
	case fieldOf(parent, name) == nil:
		at = parent
		above := spec
		if parent == spec {
			above = object
		}
		ways = insertions(data, above, keyOf(above, parent), name, o.rendered(), o.json())
	default:
		at = fieldOf(parent, name)
		var start, end int
		if start, end, err = span(data, at); err == nil {
			ways = []splice{{start, end, o.inMannerOf(data[start:end], at)}}
		}
	}
	if err == nil && len(ways) == 0 {
		err = errors.New("there is no place for it")
	}
	for i, way := range ways {
		edited := bytes.Join([][]byte{data[:way.start], []byte(way.text), data[way.end:]}, nil)
		wrong := onlyChanged(p, parse(path, edited), key, o.change)
		if wrong == nil {
			return edited, nil
		}
		if i == 0 {
			err = wrong
		}
	}
	return nil, fmt.Errorf("%s:%d:%d: VirtualServer %s: spec.%s cannot be changed here: %w; write it as a plain value, as in %s",
		p.name, at.Line, at.Column, key, strings.Join(o.field, "."), err, o.example)
}

func (p *parser) virtualServer(key types.NamespacedName) *v1alpha1.VirtualServer {
	for _, vs := range p.file.VirtualServers {
		if vs.Namespace == key.Namespace && vs.Name == key.Name {
			return vs
		}
	}
	return nil
}

// rendered is the value as YAML. A colour holds nothing to escape.
func (o one) rendered() string {
	if o.plain || plainIsString(o.text) {
		return o.text
	}
	return o.json()
}

func (o one) json() string {
	if o.plain {
		return o.text
	}
	return `"` + o.text + `"`
}

// inMannerOf is the new value in the manner of the old.
func (o one) inMannerOf(old []byte, n *yaml.Node) string {
	switch {
	case n.Kind == yaml.AliasNode, n.Style&^yaml.TaggedStyle == 0:
		return o.rendered()
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return o.text
	}
	return string(old[:1]) + o.text + string(old[:1])
}

// onlyChanged compares what two texts declare.
func onlyChanged(was, is *parser, key types.NamespacedName, c Change) error {
	if len(is.errs) > 0 {
		return fmt.Errorf("the file would no longer be right: %w", is.errs[0])
	}
	want := *was.file
	want.Digest = is.file.Digest
	want.VirtualServers = nil
	for _, vs := range was.file.VirtualServers {
		if vs.Namespace == key.Namespace && vs.Name == key.Name {
			changed := *vs
			c.To(&changed.Spec)
			vs = &changed
		}
		want.VirtualServers = append(want.VirtualServers, vs)
	}
	if !reflect.DeepEqual(&want, is.file) {
		return errors.New("more than this one value would change, since an anchor shares it with others")
	}
	return nil
}
