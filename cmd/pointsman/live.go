package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// live shows a text again and again as it changes: in place on a terminal, in blocks elsewhere.
type live struct {
	env
	last  string
	lines int // of what is on the screen
	width int
}

// show has draw write what there is to show now. It does nothing when that is what was shown last.
func (l *live) show(draw func(painter)) {
	var b strings.Builder
	p := painterFor(l.stdout)
	p.w = &b
	draw(p)
	text := b.String()
	f, ok := terminal(l.stdout)
	switch {
	case text == l.last:
	case ok:
		height := 0
		if _, rows, err := term.GetSize(int(f.Fd())); err == nil {
			height = rows
		}
		l.redraw(f, clip(text, height), p.width)
	case l.last == "":
		fmt.Fprint(l.stdout, text)
	default:
		fmt.Fprintf(l.stdout, "\n--- %s\n%s", stampText(time.Now()), text)
	}
	l.last = text
}

// redraw writes over what is there, line by line, so that nothing flickers and what was on the screen before stays.
func (l *live) redraw(f *os.File, text string, width int) {
	var b strings.Builder
	if l.width != 0 && l.width != width {
		b.WriteString("\x1b[H\x1b[2J") // the terminal has broken the lines anew
	} else if l.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", l.lines)
	}
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSuffix(line, "\n") + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(f, b.String())
	l.lines, l.width = strings.Count(text, "\n"), width
}

// clip leaves out what a screen of so many rows has no room for; 0: any.
func clip(text string, rows int) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	room := rows - 2 // the cursor's line, and the one that says so
	if rows == 0 || len(lines) < rows || room < 1 {
		return text
	}
	return strings.Join(lines[:room], "") + fmt.Sprintf("… and %d more lines\n", len(lines)-room)
}
