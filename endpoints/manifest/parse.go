package manifest

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"go.yaml.in/yaml/v3"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// maxErrors bounds what is reported of one file: who has that many reads the first ones anyway.
const maxErrors = 20

// Parse reads the bytes of one manifest file. Either the file is wholly right and errs is empty, or
// the File is nil: half a file is never in force.
func Parse(path string, data []byte) (file *File, errs []*Error) {
	p := parse(path, data)
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return p.file, nil
}

// parser gathers the objects and the errors of one file.
type parser struct {
	name    string
	file    *File
	objects map[Key]*yaml.Node // the mapping of each
	errs    []*Error
	budget  int // values that aliases may still stand for
}

func parse(path string, data []byte) *parser {
	p := &parser{name: filepath.Base(path), file: &File{Digest: Digest(data)}, objects: make(map[Key]*yaml.Node), budget: maxAliased}
	documents, err := documents(p.name, data)
	if err != nil {
		p.errs = append(p.errs, err)
		return p
	}
	for _, doc := range documents {
		p.document(doc)
	}
	if len(p.errs) == 0 && len(p.objects) == 0 {
		p.fail(nil, "", "", "holds no object; remove the file to remove its objects")
	}
	return p
}

// fail notes an error at the node's place.
func (p *parser) fail(at *yaml.Node, object, field, format string, args ...any) {
	if p.full() {
		return
	}
	e := &Error{File: p.name, Object: object, Field: field, Message: fmt.Sprintf(format, args...)}
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	p.errs = append(p.errs, e)
}

func (p *parser) full() bool { return len(p.errs) >= maxErrors }

const accepted = "pointsman.io/v1alpha1 VirtualServer, v1 Service, discovery.k8s.io/v1 EndpointSlice, v1 List"

func (p *parser) document(n *yaml.Node) {
	if n = resolveAlias(n); isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "", "", "is %s, not an object; accepted: %s", describe(n), accepted)
		return
	}
	if scalarField(n, "kind") == "List" && scalarField(n, "apiVersion") == "v1" {
		p.list(n)
		return
	}
	p.object(n)
}

// list reads the objects of a `kind: List`, as kubectl prints several.
func (p *parser) list(n *yaml.Node) {
	d := &decoder{parser: p, object: "List"}
	for _, e := range d.entries(n) {
		switch e.key.Value {
		case "apiVersion", "kind", "metadata":
		case "items":
			items := resolveAlias(e.value)
			if items.Kind != yaml.SequenceNode {
				p.fail(items, "List", "items", "is %s, not a list", describe(items))
				continue
			}
			for i, item := range items.Content {
				if item = resolveAlias(item); item.Kind != yaml.MappingNode {
					p.fail(item, "List", fmt.Sprintf("items[%d]", i), "is %s, not an object; accepted: %s", describe(item), accepted)
					continue
				}
				p.object(item)
			}
		default:
			p.fail(e.key, "List", e.key.Value, "unknown field; a List has apiVersion, kind, metadata and items")
		}
	}
}

func (p *parser) object(n *yaml.Node) {
	apiVersion, kind := scalarField(n, "apiVersion"), scalarField(n, "kind")
	key := Key{Kind: kind}
	meta := resolveAlias(fieldOf(n, "metadata"))
	key.Name, key.Namespace = scalarField(meta, "name"), scalarField(meta, "namespace")
	if key.Namespace == "" {
		key.Namespace = "default"
	}
	name := key.String()
	if key.Name == "" || kind == "" {
		name = kind
	}
	if other := p.objects[key]; other != nil {
		p.fail(n, name, "", "is declared in this file already, at line %d; remove one", other.Line)
		return
	}
	d := &decoder{parser: p, object: name}
	before := len(p.errs)
	switch {
	case apiVersion == v1alpha1.GroupVersion.String() && kind == v1alpha1.KindVirtualServer:
		vs := &v1alpha1.VirtualServer{}
		if d.decode(n, vs) {
			vs.Namespace = key.Namespace
			v1alpha1.Default(vs)
			p.invalid(n, name, v1alpha1.Validate(vs))
		}
		p.file.VirtualServers = append(p.file.VirtualServers, vs)
	case apiVersion == "v1" && kind == "Service":
		svc := &corev1.Service{}
		if d.decode(n, svc) {
			svc.Namespace = key.Namespace
			defaultService(svc)
			p.invalid(n, name, validateService(svc))
		}
		p.file.Services = append(p.file.Services, svc)
	case apiVersion == discoveryv1.SchemeGroupVersion.String() && kind == "EndpointSlice":
		slice := &discoveryv1.EndpointSlice{}
		if d.decode(n, slice) {
			slice.Namespace = key.Namespace
			defaultEndpointSlice(slice)
			p.invalid(n, name, validateEndpointSlice(slice))
		}
		p.file.EndpointSlices = append(p.file.EndpointSlices, slice)
	case apiVersion == "" || kind == "":
		p.fail(n, name, "", "has no apiVersion or no kind; accepted: %s", accepted)
	default:
		p.fail(n, "", "", "%s %s is not read here; accepted: %s", clip(apiVersion), clip(kind), accepted)
	}
	if len(p.errs) == before {
		p.objects[key] = n
		p.file.Keys = append(p.file.Keys, key)
	}
}

// invalid notes validation errors, each at the line of its field.
func (p *parser) invalid(n *yaml.Node, object string, errs field.ErrorList) {
	for _, e := range errs {
		p.fail(locate(n, e.Field), object, e.Field, "%s", e.ErrorBody())
	}
}
