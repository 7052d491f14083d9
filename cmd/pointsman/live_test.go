package main

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// output is a pipe that is read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Into a pipe a block is written for each change, without escapes, and none for the time that passes.
func TestWatchIntoAPipe(t *testing.T) {
	inBoth(t, "{steps: [{weight: 10, hold: 1h}]}", func(t *testing.T, p place) {
		ctx, cancel := context.WithCancel(t.Context())
		var out output
		done := make(chan int, 1)
		go func() {
			done <- run(ctx, env{strings.NewReader(""), &out, &out}, append([]string{"status", "myapp", "--watch"}, p.args()...))
		}()
		shows := func(text string) {
			t.Helper()
			require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, soon, often, text)
		}
		shows("Steady v1")
		does(t, p, 0, "switch", "myapp", "v2")
		shows("Stepping v1 → v2  step 1 of 1: 10 %  next at 20")
		time.Sleep(3 * clusterInterval)
		does(t, p, 0, "abort", "myapp")
		shows("v1 → v2  Aborted")
		if c, ok := p.(*clusterPlace); ok { // what was seen last is still there when nothing can be seen
			c.api.SetDown(true)
			require.Eventually(t, func() bool {
				blocks := strings.Split(out.String(), "\n--- ")
				end := blocks[len(blocks)-1]
				return strings.Contains(end, "✗ listing VirtualServers") && strings.Contains(end, "v1 → v2  Aborted")
			}, soon, often)
			c.api.SetDown(false)
		}
		cancel()
		require.Zero(t, <-done)
		text := out.String()
		require.NotContains(t, text, "\x1b")
		blocks := strings.Split(text, "\n--- ")
		for i := 1; i < len(blocks); i++ {
			_, before, _ := strings.Cut("\n"+strings.TrimSpace(blocks[i-1]), "Z\n")
			_, after, _ := strings.Cut(strings.TrimSpace(blocks[i]), "Z\n")
			require.NotEqual(t, before, after, "nothing has changed")
		}
		require.Less(t, len(blocks), 40)
	})
}

// openTerminal gives a terminal of a size, and what is written to it.
func openTerminal(t *testing.T, columns, rows uint16) (*os.File, *output) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no terminals here: ", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = slave.Close() })
	require.NoError(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}))
	seen := &output{}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			_, _ = seen.Write(b[:n])
		}
	}()
	return slave, seen
}

// screen is what stands on a terminal after what was written to it.
func screen(t *testing.T, written string, rows int) []string {
	lines, row, column := [][]rune{nil}, 0, 0
	for text := []rune(written); len(text) > 0; {
		c := text[0]
		text = text[1:]
		switch c {
		case '\r':
			column = 0
		case '\n':
			if row++; row == len(lines) {
				lines = append(lines, nil)
			}
		case 0x1b:
			end := slices.IndexFunc(text, unicode.IsLetter)
			count, verb := string(text[1:end]), text[end]
			text = text[end+1:]
			switch verb {
			case 'A':
				up, err := strconv.Atoi(count)
				require.NoError(t, err)
				require.Less(t, up, rows, "above the screen")
				row -= up
			case 'K':
				lines[row] = lines[row][:min(column, len(lines[row]))]
			case 'J':
				lines[row] = lines[row][:min(column, len(lines[row]))]
				lines = lines[:row+1]
			}
		default:
			for len(lines[row]) <= column {
				lines[row] = append(lines[row], ' ')
			}
			lines[row][column] = c
			column++
		}
	}
	out := make([]string, len(lines))
	for i := range lines {
		out[i] = string(lines[i])
	}
	return out
}

// On a terminal one picture is drawn over the other, and never more than there is room for.
func TestWatchOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	p := newManifestPlace(t, "{steps: [{weight: 10, hold: 1h}]}")
	p.start()
	t.Cleanup(p.stop)
	comesTo(t, p, v1alpha1.PhaseSteady)
	slave, seen := openTerminal(t, 80, 6)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, env{strings.NewReader(""), slave, slave}, append([]string{"status", "--watch"}, p.args()...))
	}()
	shows := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(seen.String(), text) }, soon, often, text)
	}
	shows("Steady v1")
	does(t, p, 0, "switch", "myapp", "v2")
	shows("Stepping v1 → v2")
	does(t, p, 0, "abort", "myapp")
	require.Eventually(t, func() bool { return strings.Count(seen.String(), "Steady v1") > 1 }, soon, often)
	cancel()
	require.Zero(t, <-done)
	lines := screen(t, seen.String(), 6)
	text := strings.Join(lines, "\n")
	require.Equal(t, 1, strings.Count(text, "default/myapp"), "%s", text)
	require.Contains(t, text, "Steady v1")
	require.NotContains(t, text, "Stepping")
	require.Contains(t, text, "more lines")
	require.LessOrEqual(t, len(lines), 6, "%s", text)
	for _, line := range lines {
		require.LessOrEqual(t, visible(line), 80, "%q", line)
	}
}

// Who waits at a terminal sees the tree, and the outcome below it.
func TestWaitOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	p := newManifestPlace(t, "{steps: [{weight: 10, hold: 1s}], observe: {window: 1s}}")
	p.start()
	t.Cleanup(p.stop)
	comesTo(t, p, v1alpha1.PhaseSteady)
	slave, seen := openTerminal(t, 80, 30)
	status := run(t.Context(), env{strings.NewReader(""), slave, slave}, append([]string{"switch", "myapp", "v2", "--wait"}, p.args()...))
	require.Zero(t, status)
	require.Eventually(t, func() bool { return strings.Contains(seen.String(), "read back from") }, soon, often)
	require.Contains(t, seen.String(), "\x1b["+yellow+"mStepping v1 → v2")
	require.Contains(t, seen.String(), "Observing v2")
	text := strings.Join(screen(t, seen.String(), 30), "\n")
	t.Log("\n" + text)
	require.Contains(t, text, "Steady v2  1 of 1 node\n")
	require.Regexp(t, `default/myapp: new connections go to v2 only \(was v1\), read back from the kernel after [^\n]*\n$`, text)
	require.Equal(t, 2, strings.Count(text, "default/myapp"), "%s", text)
}

func TestClip(t *testing.T) {
	require.Equal(t, "1\n2\n", clip("1\n2\n", 0))
	require.Equal(t, "1\n2\n", clip("1\n2\n", 3))
	require.Equal(t, "1\n… and 2 more lines\n", clip("1\n2\n3\n", 3))
	require.Equal(t, "1\n2\n… and 2 more lines\n", clip("1\n2\n3\n4\n", 4))
}

func TestWrap(t *testing.T) {
	require.Equal(t, []string{"one two", "three"}, wrap("one two three", 8))
	require.Equal(t, []string{"one", "two"}, wrap("one  two", 3))
	require.Equal(t, []string{"abc", "def", "g h"}, wrap("abcdefg h", 3))
	require.Equal(t, []string{"é日本", "x"}, wrap("é日本 x", 3))
	require.Equal(t, []string{"\x1b[1mab\x1b[0m", "cd"}, wrap("\x1b[1mab\x1b[0m cd", 3))
	require.Equal(t, []string{"a b"}, wrap("a b", 0))
	require.Equal(t, "ab…yz", shorten("abcdefxyz", 5))
	require.Equal(t, "abcde", shorten("abcde", 5))
}
