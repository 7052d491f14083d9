package manifest

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Where in a text things stand, and where new ones can be put.

// splice is a text in the place of data[start:end].
type splice struct {
	start, end int
	text       string
}

// keyOf is the key of a mapping whose value is this node, or an alias of it; "" when there is none.
func keyOf(mapping, value *yaml.Node) string {
	mapping = resolveAlias(mapping)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if resolveAlias(mapping.Content[i+1]) == resolveAlias(value) {
			return mapping.Content[i].Value
		}
	}
	return ""
}

// insertions are the places for a new field in the mapping that above has under a key, the handsomest first. A block
// gets it as a line of its own, a flow as its first entry. Whether a place will do is told by parsing.
func insertions(data []byte, above *yaml.Node, under, name, value, json string) []splice {
	mapping := fieldOf(above, under)
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	start, ok := offset(data, mapping.Line, mapping.Column)
	if !ok {
		return nil
	}
	if mapping.Style&yaml.FlowStyle != 0 {
		return inFlow(data, skipProperties(data, start), name, value, json)
	}
	if len(mapping.Content) == 0 {
		return nil
	}
	first := mapping.Content[0]
	at, ok := offset(data, first.Line, first.Column)
	if !ok {
		return nil
	}
	from := lineStart(data, at)
	indent, line := strings.Repeat(" ", first.Column-1), name+": "+value
	var ways []splice
	// After spec.active, or what comes last that is on one line; then below the key.
	after := func(n *yaml.Node) {
		at, ok := offset(data, n.Line, n.Column)
		if !ok {
			return
		}
		end, eol := lineEnd(data, at)
		if eol == "" {
			ways = append(ways, splice{end, end, eolOf(data) + indent + line})
			return
		}
		ways = append(ways, splice{end + len(eol), end + len(eol), indent + line + eol})
	}
	if active := fieldOf(mapping, "active"); active != nil && len(bytes.TrimLeft(data[from:at], " ")) == 0 {
		after(active)
	}
	for i := 0; i+1 < len(resolveAlias(above).Content); i += 2 {
		if key := resolveAlias(above).Content[i]; key.Value == under && key.Line < first.Line {
			after(key)
		}
	}
	return append(ways, splice{at, at, line + eolOf(data) + indent})
}

// inFlow are the places behind the bracket that opens a flow mapping.
func inFlow(data []byte, at int, name, value, json string) []splice {
	if at >= len(data) || data[at] != '{' {
		return nil
	}
	at++
	rest := bytes.TrimLeft(data[at:], " \t\r\n")
	if len(rest) == 0 {
		return nil
	}
	if rest[0] == '"' {
		name, value = `"`+name+`"`, json
	}
	asJSON := splice{at, at, `"` + strings.Trim(name, `"`) + `": ` + json}
	text := name + ": " + value
	if rest[0] != '}' {
		text, asJSON.text = text+", ", asJSON.text+", "
	}
	return []splice{{at, at, text}, asJSON}
}

func lineStart(data []byte, at int) int {
	for at > 0 && data[at-1] != '\n' && data[at-1] != '\r' {
		at--
	}
	return at
}

// lineEnd is where the line of at ends, and how: "" at the end of the text.
func lineEnd(data []byte, at int) (end int, eol string) {
	for end = at; end < len(data) && data[end] != '\n' && data[end] != '\r'; end++ {
	}
	for _, eol := range []string{"\r\n", "\n", "\r"} {
		if bytes.HasPrefix(data[end:], []byte(eol)) {
			return end, eol
		}
	}
	return end, ""
}

// eolOf is how the first line ends.
func eolOf(data []byte) string {
	if _, eol := lineEnd(data, 0); eol != "" {
		return eol
	}
	return "\n"
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
