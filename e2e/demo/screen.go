package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// errCounts says that a count is not what the story says.
var errCounts = errors.New("a count is not what the scenario says")

// width is what every line fits in.
const width = 80

// screen writes the story for a reader, in colour where that is a terminal.
type screen struct {
	out    *os.File
	colour bool
	began  time.Time
	step   int
	checks int
	failed int
}

func newScreen(out *os.File) *screen {
	return &screen{
		out:    out,
		colour: term.IsTerminal(int(out.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		began:  time.Now(),
	}
}

// Select Graphic Rendition codes (ECMA-48).
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (s *screen) paint(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) line(text string) { fmt.Fprintln(s.out, text) }

// title begins a step.
func (s *screen) title(text string) {
	s.step++
	took := fmt.Sprintf("%4.0f s", time.Since(s.began).Seconds())
	head := fmt.Sprintf("%d  %s", s.step, text)
	pad := strings.Repeat(" ", max(1, width-len([]rune(head))-len(took)))
	s.line("")
	s.line(s.paint(bold, head) + pad + s.paint(dim, took))
}

// say tells something, wrapped to the width.
func (s *screen) say(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), width-3) {
		s.line("   " + line)
	}
}

// command shows a command as it was typed, and where.
func (s *screen) command(where, command string) {
	s.line("   " + s.paint(cyan, where+"#") + " " + s.paint(bold, command))
}

// output shows what a command printed; a line that is too long goes on in the next.
func (s *screen) output(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n ")) {
		line = strings.TrimRight(line, "\n ")
		if len([]rune(line)) <= width-5 {
			s.line(strings.TrimRight("     "+line, " "))
			continue
		}
		for i, part := range wrap(line, width-9) {
			indent := "     "
			if i > 0 {
				indent += "  "
			}
			s.line(indent + part)
		}
	}
}

// check compares what was expected with what was counted.
func (s *screen) check(what string, want, got any) {
	s.checks++
	expected, counted := fmt.Sprint(want), fmt.Sprint(got)
	mark, tail := s.paint(green, "✓"), ""
	if expected != counted {
		s.failed++
		mark, tail = s.paint(red, "✗"), s.paint(red, "  expected "+expected)
	}
	dots := strings.Repeat(".", max(2, 50-len([]rune(what))))
	s.line("   " + mark + " " + what + " " + s.paint(dim, dots) + " " + s.paint(bold, counted) + tail)
}

// holds is a check of something that is either so or not, with the reason when it is not.
func (s *screen) holds(what string, err error) {
	if err != nil {
		s.check(what, "yes", "no: "+firstLine(err.Error()))
		return
	}
	s.check(what, "yes", "yes")
}

// close ends the story.
func (s *screen) close(ok bool, text string) {
	mark := s.paint(green, "✓")
	if !ok {
		mark = s.paint(red, "✗")
	}
	s.line("")
	s.line(fmt.Sprintf("%s %s (%d of %d checks hold, %.0f s)", mark, text, s.checks-s.failed, s.checks, time.Since(s.began).Seconds()))
}

func firstLine(text string) string {
	line, _, more := strings.Cut(text, "\n")
	if more {
		line += " …"
	}
	return line
}

// wrap breaks text into lines of at most n characters, at spaces.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > n {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
