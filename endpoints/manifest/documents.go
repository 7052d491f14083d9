package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxDocuments bounds what a file full of separators costs.
const maxDocuments = 20_000

// documents splits the bytes of a file into its YAML documents' root nodes.
func documents(name string, data []byte) ([]*yaml.Node, *Error) {
	if err := readable(name, data); err != nil {
		return nil, err
	}
	if filepath.Ext(name) == ".json" {
		if err := validJSON(name, data); err != nil {
			return nil, err
		}
	}
	var roots []*yaml.Node
	read := 0
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decodeNode(decoder, &doc)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, syntaxError(name, data, err)
		}
		if read++; read > maxDocuments {
			return nil, &Error{File: name, Line: doc.Line, Message: fmt.Sprintf("holds more than %d documents; split it into several files", maxDocuments)}
		}
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
			roots = append(roots, doc.Content[0])
		}
	}
}

// decodeNode turns a panic of the YAML library into an error: it recovers its own, but bytes that
// nobody has thought of have made its scanner index out of range before, and a manifest must never
// end the daemon.
func decodeNode(decoder *yaml.Decoder, doc *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read as YAML: %v", r)
		}
	}()
	return decoder.Decode(doc)
}

// readable refuses what is no text before the YAML scanner sees it.
func readable(name string, data []byte) *Error {
	if len(data) > MaxBytes {
		return &Error{File: name, Message: fmt.Sprintf("is %d bytes long, more than the %d allowed; split it into several files", len(data), MaxBytes)}
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return &Error{File: name, Line: 1, Message: "is UTF-16; save the file as UTF-8"}
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if message := unreadable(r, size, data[i], i); message != "" {
			line, column := position(data, i)
			return &Error{File: name, Line: line, Column: column, Message: message}
		}
		i += size
	}
	return nil
}

// unreadable is what is wrong with one character, or "".
func unreadable(r rune, size int, first byte, at int) string {
	switch {
	case r == utf8.RuneError && size == 1:
		return fmt.Sprintf("byte 0x%02x is not UTF-8; save the file as UTF-8", first)
	case r == 0:
		return "holds a NUL byte, so it is no text or was not written to its end; save it again as UTF-8"
	case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85,
		r == '\ufeff' && at > 0, r == '\ufffe', r == '\uffff':
		return fmt.Sprintf("holds the character %U, which YAML does not allow; remove it", r)
	}
	return ""
}

// validJSON holds a .json file to JSON: YAML alone would let unquoted and single-quoted text pass,
// which no other reader of the file would take.
func validJSON(name string, data []byte) *Error {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(bytes.TrimSpace(data)) == 0 {
		return nil // reported as holding no object
	}
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line, column := position(data, max(0, int(syntax.Offset)-1))
		return &Error{File: name, Line: line, Column: column, Message: "is not JSON: " + syntax.Error()}
	}
	if err != nil {
		return &Error{File: name, Message: "is not JSON: " + err.Error()}
	}
	return nil
}

// position is the line and column, from 1, of a byte.
func position(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])
}

var (
	yamlLine    = regexp.MustCompile(`^line (\d+): `)
	yamlAnchor  = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
	yamlGrammar = regexp.MustCompile(`^did not find expected (<|node content|key|'-' indicator|',' or)`)
)

// syntaxError puts the YAML library's message in ours. The library counts lines from 0 in errors of
// its grammar, and leaves out a line 0 in all.
func syntaxError(name string, data []byte, err error) *Error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{File: name, Line: 1}
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
		if yamlGrammar.MatchString(message) {
			e.Line++
		}
	} else if m := yamlAnchor.FindStringSubmatch(message); m != nil {
		e.Line, e.Column = position(data, max(0, bytes.Index(data, []byte("*"+m[1]))))
	}
	e.Message = "is not YAML: " + clip(message)
	if filepath.Ext(name) == ".json" {
		e.Message = `is JSON with an escape that YAML lacks, such as \/ or a \ud83d\ude00 pair; write the character itself`
		return e
	}
	if line := tabIndent(data, e.Line); line > 0 && strings.Contains(message, "token") {
		e.Line = line
		e.Message += "; the line is indented with a tab, use spaces"
	}
	return e
}

// tabIndent finds a line indented with a tab at or next to the one that the scanner blames.
func tabIndent(data []byte, blamed int) int {
	lines := bytes.SplitN(data, []byte("\n"), blamed+2)
	for _, line := range []int{blamed, blamed + 1, blamed - 1} {
		if line < 1 || line > len(lines) {
			continue
		}
		text := lines[line-1]
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if bytes.IndexByte(indent, '\t') >= 0 {
			return line
		}
	}
	return 0
}

// clip keeps foreign text in messages short and printable.
func clip(s string) string {
	const limit = 80
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit]) + "…"
	}
	if strconv.Quote(s) != `"`+s+`"` && !printable(s) {
		return strconv.Quote(s)
	}
	return s
}

func printable(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
