// Package jsontext reads and writes JSON without reflection, where traffic waits for it: what an API server sends by the
// thousand at a start, and the files that are written before the kernel is.
package jsontext

import "encoding/json"

// AppendString appends a quoted string, as json.Marshal has it. Those of Kubernetes names and labels have nothing that
// needs more than quotes.
func AppendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := json.Marshal(s) // a string always has a text
			return append(out, text...)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}
