package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Text is JSON that is read once from its beginning to its end. What is not wanted is passed over byte by byte, without
// being looked at more than it takes to find where it ends: encoding/json checks all of it first and reads it again after.
// What is wrong with it is an error sooner or later, and is io.ErrUnexpectedEOF when it may only be cut off.
type Text struct {
	b  []byte
	at int
}

// NewText begins to read b, which it does not change.
func NewText(b []byte) *Text { return &Text{b: b} }

// Rest is what was not read yet.
func (t *Text) Rest() []byte { return t.b[t.at:] }

func (t *Text) wrong(want string) error {
	if t.at >= len(t.b) {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("want %s, not %q, at byte %d", want, t.b[t.at], t.at)
}

// next is the byte that the next value begins with, or 0 at the end.
func (t *Text) next() byte {
	for t.at < len(t.b) {
		switch c := t.b[t.at]; c {
		case ' ', '\t', '\n', '\r':
			t.at++
		default:
			return c
		}
	}
	return 0
}

func (t *Text) take(c byte, what string) error {
	if t.next() != c {
		return t.wrong(what)
	}
	t.at++
	return nil
}

// Object calls f at the value of each key as it stands, which it is to take. Anything but an object is passed over.
func (t *Text) Object(f func(key []byte) error) error {
	return t.each('{', '}', "a comma or the end of an object", func() error {
		key, err := t.quoted()
		if err != nil {
			return err
		}
		if err := t.take(':', "a colon"); err != nil {
			return err
		}
		return f(key[1 : len(key)-1])
	})
}

// Array calls f at each value, which it is to take. Anything but an array is passed over.
func (t *Text) Array(f func() error) error {
	return t.each('[', ']', "a comma or the end of an array", f)
}

// each calls f at each item between two brackets. Anything that does not begin with the first is passed over.
func (t *Text) each(open, end byte, more string, f func() error) error {
	if t.next() != open {
		return t.Skip()
	}
	t.at++
	if t.next() == end {
		t.at++
		return nil
	}
	for {
		if err := f(); err != nil {
			return err
		}
		if t.next() == end {
			t.at++
			return nil
		}
		if err := t.take(',', more); err != nil {
			return err
		}
	}
}

// plain is what a string without escapes says.
func plain(quoted []byte) string { return string(quoted[1 : len(quoted)-1]) }

// Value takes one into what it belongs in, as json.Unmarshal does: null leaves that as it is.
func (t *Text) Value(into any) error {
	raw, err := t.Raw()
	if err != nil {
		return err
	}
	if s, ok := into.(*string); ok && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		*s = plain(raw)
		return nil
	}
	return json.Unmarshal(raw, into)
}

// Raw takes a value as it stands.
func (t *Text) Raw() ([]byte, error) {
	t.next()
	from := t.at
	err := t.Skip()
	return t.b[from:t.at], err
}

// quoted takes a string as it stands.
func (t *Text) quoted() ([]byte, error) {
	if t.next() != '"' {
		return nil, t.wrong("a string")
	}
	from := t.at
	if err := t.skipString(); err != nil {
		return nil, err
	}
	return t.b[from:t.at], nil
}

func (t *Text) skipString() error {
	t.at++
	for {
		end := bytes.IndexByte(t.b[t.at:], '"')
		if end < 0 {
			t.at = len(t.b)
			return io.ErrUnexpectedEOF
		}
		end += t.at
		escapes := 0
		for end-1-escapes >= t.at && t.b[end-1-escapes] == '\\' {
			escapes++
		}
		t.at = end + 1
		if escapes%2 == 0 {
			return nil
		}
	}
}

// maxDepth is where encoding/json gives up, too.
const maxDepth = 10000

// Skip takes a value.
func (t *Text) Skip() error {
	var closing []byte // of what is open
	for {
		switch c := t.next(); c {
		case '"':
			if err := t.skipString(); err != nil {
				return err
			}
		case '{', '[':
			if len(closing) == maxDepth {
				return errors.New("too deep")
			}
			closing = append(closing, c+2) // } and ] come two after { and [
			t.at++
			continue
		case '}', ']':
			if len(closing) == 0 || closing[len(closing)-1] != c {
				return t.wrong("a value")
			}
			closing = closing[:len(closing)-1]
			t.at++
		case ',', ':':
			if len(closing) == 0 {
				return t.wrong("a value")
			}
			t.at++
			continue
		case 0:
			return io.ErrUnexpectedEOF
		default:
			from := t.at
			for t.at < len(t.b) && !delimits(t.b[t.at]) {
				t.at++
			}
			switch t.at {
			case from:
				return t.wrong("a value")
			case len(t.b):
				return io.ErrUnexpectedEOF // it may go on; what is read here ends with a bracket
			}
		}
		if len(closing) == 0 {
			return nil
		}
	}
}

func delimits(c byte) bool {
	switch c {
	case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\n', '\r', 0:
		return true
	}
	return false
}
