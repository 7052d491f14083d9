package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// ErrNotDeclared: the file does not declare the VirtualServer.
var ErrNotDeclared = errors.New("is not declared in the file")

// SetActive replaces the value of spec.active of one VirtualServer in a manifest's text, and leaves
// every other byte as it is. The result has been parsed again: it declares what the old text did, but
// for this one value. When the value is that already the text comes back unchanged.
func SetActive(path string, data []byte, key types.NamespacedName, colour string) (edited []byte, previous string, err error) {
	if wrong := v1alpha1.ValidateColour(colour); len(wrong) > 0 {
		return nil, "", fmt.Errorf("colour %q %s", clip(colour), strings.Join(wrong, "; "))
	}
	p := parse(path, data)
	if len(p.errs) > 0 {
		return nil, "", fmt.Errorf("mend the manifest first: %w", p.errs[0])
	}
	object, old := p.objects[Key{v1alpha1.KindVirtualServer, key}], p.virtualServer(key)
	if object == nil || old == nil {
		return nil, "", ErrNotDeclared
	}
	if previous = old.Spec.Active; previous == colour {
		return data, previous, nil
	}
	active := fieldOf(fieldOf(object, "spec"), "active")
	start, end, err := span(data, active)
	if err != nil {
		return nil, "", p.cannot(active, key, err)
	}
	edited = bytes.Join([][]byte{data[:start], []byte(rendered(data[start:end], active, colour)), data[end:]}, nil)
	if err := onlyActiveChanged(p, parse(path, edited), key, colour); err != nil {
		return nil, "", p.cannot(active, key, err)
	}
	return edited, previous, nil
}

func (p *parser) cannot(at *yaml.Node, key types.NamespacedName, err error) error {
	return fmt.Errorf("%s:%d:%d: VirtualServer %s: spec.active cannot be changed here: %w; write it as a plain value, as in active: v1", p.name, at.Line, at.Column, key, err)
}

func (p *parser) virtualServer(key types.NamespacedName) *v1alpha1.VirtualServer {
	for _, vs := range p.file.VirtualServers {
		if vs.Namespace == key.Namespace && vs.Name == key.Name {
			return vs
		}
	}
	return nil
}

// rendered is the new value in the manner of the old.
func rendered(old []byte, n *yaml.Node, colour string) string {
	switch {
	case n.Kind == yaml.AliasNode, n.Style&^yaml.TaggedStyle == 0:
		if plainIsString(colour) {
			return colour
		}
		return `"` + colour + `"` // a label value holds nothing to escape
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return colour
	}
	return string(old[:1]) + colour + string(old[:1])
}

// onlyActiveChanged compares what two texts declare.
func onlyActiveChanged(was, is *parser, key types.NamespacedName, colour string) error {
	if len(is.errs) > 0 {
		return fmt.Errorf("the file would no longer be right: %w", is.errs[0])
	}
	want := *was.file
	want.Digest = is.file.Digest
	want.VirtualServers = nil
	for _, vs := range was.file.VirtualServers {
		if vs.Namespace == key.Namespace && vs.Name == key.Name {
			changed := *vs
			changed.Spec.Active = colour
			vs = &changed
		}
		want.VirtualServers = append(want.VirtualServers, vs)
	}
	if !reflect.DeepEqual(&want, is.file) {
		return errors.New("more than this one value would change, since an anchor shares it with others")
	}
	return nil
}

// span is where in the text a scalar's own characters stand, without its anchor and tag: with its
// quotes if it has them, the one line of text of a block scalar, the whole of an alias.
func span(data []byte, n *yaml.Node) (start, end int, err error) {
	start, ok := offset(data, n.Line, n.Column)
	if !ok {
		return 0, 0, errors.New("its place in the text was not found")
	}
	if n.Kind == yaml.AliasNode {
		return within(data, start, "*"+n.Value)
	}
	start = skipProperties(data, start)
	if start >= len(data) {
		return 0, 0, errors.New("its place in the text was not found")
	}
	switch {
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		return quoted(data, start)
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return blockLine(data, start, n.Value)
	}
	return within(data, start, n.Value)
}

func within(data []byte, start int, text string) (int, int, error) {
	if text == "" || !bytes.HasPrefix(data[start:], []byte(text)) {
		return 0, 0, errors.New("its text does not stand where it should")
	}
	return start, start + len(text), nil
}

func quoted(data []byte, start int) (int, int, error) {
	quote := data[start]
	for i := start + 1; i < len(data) && (quote == '"' || quote == '\''); i++ {
		switch {
		case data[i] == '\\' && quote == '"':
			i++
		case data[i] == quote: // '' inside '…' is no part of any colour
			return start, i + 1, nil
		}
	}
	return 0, 0, errors.New("its closing quote was not found")
}

// blockLine finds the text of a block scalar, which as a colour is one line below its header.
func blockLine(data []byte, start int, value string) (int, int, error) {
	eol := bytes.IndexByte(data[start:], '\n')
	if eol < 0 {
		return 0, 0, errors.New("its text was not found")
	}
	from := start + eol + 1
	from += len(data[from:]) - len(bytes.TrimLeft(data[from:], " \r\n"))
	return within(data, from, strings.TrimSpace(value))
}

// skipProperties passes a scalar's anchor and tag and the space, line ends and comments after them.
func skipProperties(data []byte, at int) int {
	for at < len(data) && (data[at] == '&' || data[at] == '!') {
		for at < len(data) && !bytes.ContainsRune([]byte(" \t\r\n"), rune(data[at])) {
			at++
		}
		for at < len(data) && bytes.ContainsRune([]byte(" \t\r\n#"), rune(data[at])) {
			if data[at] != '#' {
				at++
				continue
			}
			for at < len(data) && data[at] != '\n' && data[at] != '\r' {
				at++
			}
		}
	}
	return at
}

// offset is the byte at a line and column of the YAML library: lines end as YAML 1.1 has it, columns
// count characters, and a byte order mark at the start counts for nothing.
func offset(data []byte, line, column int) (int, bool) {
	at := 0
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		at = len("\ufeff")
	}
	for l, c := 1, 1; at < len(data); {
		if l == line && c == column {
			return at, true
		}
		if l > line {
			break
		}
		r, size := utf8.DecodeRune(data[at:])
		at += size
		switch r {
		case '\r':
			if at < len(data) && data[at] == '\n' {
				at++
			}
			l, c = l+1, 1
		case '\n', '\u0085', '\u2028', '\u2029':
			l, c = l+1, 1
		default:
			c++
		}
	}
	return 0, false
}
