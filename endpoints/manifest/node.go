package manifest

import (
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxAliasHops bounds what following an alias costs, should a node ever lead to itself.
const maxAliasHops = 16

// resolveAlias is the node that n stands for. It is never nil: a missing node is a null.
func resolveAlias(n *yaml.Node) *yaml.Node {
	for range maxAliasHops {
		if n == nil {
			break
		}
		if n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
}

func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// isMerge tells whether a key is YAML's merge key.
func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && key.ShortTag() == "!!merge"
}

// fieldOf is the value of a mapping's field as it stands there (it may be an alias), or nil. A field
// of its own comes before a merged one.
func fieldOf(n *yaml.Node, name string) *yaml.Node { return fieldWithin(n, name, maxAliasHops) }

func fieldWithin(n *yaml.Node, name string, hops int) *yaml.Node {
	n = resolveAlias(n)
	if hops == 0 || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; key.Kind == yaml.ScalarNode && key.Value == name && !isMerge(key) {
			return n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		for _, from := range mergeSources(n.Content[i+1]) {
			if v := fieldWithin(from, name, hops-1); v != nil {
				return v
			}
		}
	}
	return nil
}

// mergeSources are the mappings that a merge key's value names.
func mergeSources(n *yaml.Node) []*yaml.Node {
	if n = resolveAlias(n); n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

// scalarField is the text of a scalar field, or "".
func scalarField(n *yaml.Node, name string) string {
	v := resolveAlias(fieldOf(n, name))
	if v.Kind != yaml.ScalarNode || isNull(v) {
		return ""
	}
	return clip(v.Value)
}

var pathToken = regexp.MustCompile(`\[[^\]]*\]|[^.\[\]]+`)

// locate is the node of a field path like spec.ports[0].name or metadata.labels[app], or the nearest
// one above it that exists.
func locate(n *yaml.Node, path string) *yaml.Node {
	n = resolveAlias(n)
	for _, token := range pathToken.FindAllString(path, -1) {
		var next *yaml.Node
		if inner, indexed := strings.CutPrefix(token, "["); indexed {
			inner = strings.TrimSuffix(inner, "]")
			if i, err := strconv.Atoi(inner); err == nil && n.Kind == yaml.SequenceNode && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
			} else {
				next = fieldOf(n, inner)
			}
		} else {
			next = fieldOf(n, token)
		}
		if next == nil {
			return n
		}
		if resolved := resolveAlias(next); resolved.Line > 0 {
			n = resolved
		} else {
			return next
		}
	}
	return n
}

// describe names what a node is, with its value.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
	default:
		return "nothing"
	}
	value := clip(n.Value)
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return "the string " + strconv.Quote(value)
	}
	switch n.ShortTag() {
	case "!!null":
		return "null"
	case "!!bool":
		return value + ", a boolean"
	case "!!int", "!!float":
		return value + ", a number"
	case "!!timestamp":
		return value + ", a date"
	}
	if yaml11Bool[n.Value] {
		return value + ", a boolean in YAML 1.1"
	}
	return "the string " + strconv.Quote(value)
}

// yaml11Bool are the plain scalars that YAML 1.1 readers, kubectl among them, take for booleans
// though YAML 1.2 does not. Such a manifest would mean two things to two programs.
var yaml11Bool = map[string]bool{
	"y": true, "Y": true, "yes": true, "Yes": true, "YES": true, "on": true, "On": true, "ON": true,
	"n": true, "N": true, "no": true, "No": true, "NO": true, "off": true, "Off": true, "OFF": true,
}

// plainIsString tells whether a scalar, written without quotes, is a string to every YAML reader.
func plainIsString(value string) bool {
	n := yaml.Node{Kind: yaml.ScalarNode, Value: value}
	return n.ShortTag() == "!!str" && !yaml11Bool[value]
}
