package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// painter writes for a person: in colour, within a width, with times counted from now, where that helps. The zero
// value but for w writes plain text whose lines are as long as they get and whose times are absolute, so that the same
// things give the same text.
type painter struct {
	w      io.Writer
	colour bool
	width  int       // in characters; 0: any
	now    time.Time // zero: times are absolute
}

// Select Graphic Rendition codes (ECMA-48).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p painter) paint(code, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

// at says when something is due: in how long, or at what time.
func (p painter) at(t time.Time) string {
	switch left := t.Sub(p.now).Round(time.Second); {
	case p.now.IsZero():
		return "at " + stampText(t)
	case left <= 0:
		return "now"
	default:
		return "in " + short(left)
	}
}

// since says since when something is so: for how long, or from what time on.
func (p painter) since(t time.Time) string {
	if p.now.IsZero() {
		return "since " + stampText(t)
	}
	return "for " + short(max(0, p.now.Sub(t)))
}

// short is a duration in whole seconds, without the zeros at its end.
func short(d time.Duration) string {
	text := d.Round(time.Second).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

func stampText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// bar shows a part of a whole, to who looks at it as it grows.
func (p painter) bar(part, whole float64) string {
	const cells = 10
	if p.now.IsZero() || whole <= 0 {
		return ""
	}
	full := int(cells * min(1, max(0, part/whole)))
	return p.paint(green, strings.Repeat("━", full)) + p.paint(dim, strings.Repeat("─", cells-full)) + "  "
}

// limb is a line of a tree and what hangs below it.
type limb struct {
	text string
	kids []*limb
}

func (l *limb) add(format string, args ...any) *limb {
	kid := &limb{text: fmt.Sprintf(format, args...)}
	l.kids = append(l.kids, kid)
	return kid
}

// tree writes a limb and all below it. What does not fit a line goes on below itself.
func (p painter) tree(l *limb) { p.limb(l, "", "") }

func (p painter) limb(l *limb, first, rest string) {
	below := rest
	if len(l.kids) > 0 {
		below += "│ "
	} else {
		below += "  "
	}
	for i, text := range wrap(l.text, p.width-utf8.RuneCountInString(below)) {
		if i == 0 {
			p.line("%s%s", p.paint(dim, first), text)
		} else {
			p.line("%s%s", p.paint(dim, below), text)
		}
	}
	for i, kid := range l.kids {
		if i < len(l.kids)-1 {
			p.limb(kid, rest+"├─ ", rest+"│  ")
		} else {
			p.limb(kid, rest+"└─ ", rest+"   ")
		}
	}
}

// wrap breaks a text between words, and within one that is longer than a line. 0 and below is any width.
func wrap(text string, width int) []string {
	if width <= 0 || visible(text) <= width {
		return []string{text}
	}
	var lines []string
	line := ""
	for len(text) > 0 {
		word, space := text, ""
		if at := strings.IndexByte(text, ' '); at >= 0 {
			end := at
			for end < len(text) && text[end] == ' ' {
				end++
			}
			word, space = text[:at], text[at:end]
		}
		text = text[len(word)+len(space):]
		for visible(strings.TrimRight(line, " "))+visible(word) > width || visible(line)+visible(word) > width {
			if strings.TrimSpace(line) != "" {
				lines, line = append(lines, strings.TrimRight(line, " ")), ""
				continue
			}
			var head string
			head, word = cut(word, width)
			lines, line = append(lines, head), ""
		}
		line += word + space
	}
	if strings.TrimSpace(line) != "" {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// visible counts the characters of a text that are seen.
func visible(text string) int {
	n := 0
	for i := 0; i < len(text); {
		if text[i] == 0x1b {
			i = escapeEnd(text, i)
			continue
		}
		_, size := utf8.DecodeRuneInString(text[i:])
		i, n = i+size, n+1
	}
	return n
}

// escapeEnd is behind the escape sequence that begins at i; see [painter.paint].
func escapeEnd(text string, i int) int {
	if end := strings.IndexByte(text[i:], 'm'); end >= 0 {
		return i + end + 1
	}
	return len(text)
}

// cut cuts a text after a number of visible characters.
func cut(text string, width int) (head, tail string) {
	n := 0
	for i := 0; i < len(text); {
		if text[i] == 0x1b {
			i = escapeEnd(text, i)
			continue
		}
		if n == width {
			return text[:i], text[i:]
		}
		_, size := utf8.DecodeRuneInString(text[i:])
		i, n = i+size, n+1
	}
	return text, ""
}

// shorten leaves out the middle of a name: its ends tell most.
func shorten(name string, most int) string {
	runes := []rune(name)
	if most <= 0 || len(runes) <= most {
		return name
	}
	tail := (most - 1) / 2
	return string(runes[:most-1-tail]) + "…" + string(runes[len(runes)-tail:])
}

// pad fills a text up with spaces.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-visible(text)))
}

func plural[N int | int32 | int64](n N, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// terminal is the writer's file when that is a terminal.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// colourful is whether a writer is a terminal whose user did not ask for plain text (NO_COLOR).
func colourful(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && os.Getenv("NO_COLOR") == ""
}

// painterFor is how a writer is best written to.
func painterFor(w io.Writer) painter {
	p := painter{w: w, colour: colourful(w)}
	if f, ok := terminal(w); ok {
		p.now, p.width = time.Now(), defaultWidth
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			p.width = max(width, minWidth)
		}
	}
	return p
}

const (
	defaultWidth = 80
	minWidth     = 40 // below that wrapping makes a mess of everything
)
