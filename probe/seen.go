package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"
)

// Error is what a test that did not pass saw.
type Error struct {
	// Seen is what was seen, in words: "HTTP status 503, want 200". The same fault has the same words each time.
	Seen string
	// Detail is what may differ each time, as the first bytes of a body; "" when there is none.
	Detail string
	// Err is the error below, if there was one; its text is not shown.
	Err error
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Seen
	}
	return e.Seen + ": " + e.Detail
}

func (e *Error) Unwrap() error { return e.Err }

func seen(err error, format string, args ...any) *Error {
	return &Error{Seen: fmt.Sprintf(format, args...), Err: err}
}

// words says what became of a connection on which the given thing was awaited ("an HTTP answer").
func words(err error, awaited string) *Error {
	var already *Error
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &already):
		return already
	case errors.As(err, &record):
		return seen(err, "does not speak TLS")
	case errors.As(err, &op) && op.Op == "remote error": // crypto/tls: the peer's alert
		return seen(err, "refuses the TLS handshake: %s", strings.TrimPrefix(op.Err.Error(), "tls: "))
	case late(err):
		return seen(err, "accepts, but %s did not come in time", awaited)
	case errors.Is(err, context.Canceled):
		return seen(err, "not tested: given up")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return seen(err, "connection reset before %s", awaited)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return seen(err, "connection closed before %s", awaited)
	}
	text := cause(err) // which may quote the peer
	if len(text) > 2*shown {
		text = text[:2*shown] + "…"
	}
	return &Error{Seen: "no proper " + bare(awaited), Detail: text, Err: err}
}

// unconnected says why no connection was made.
func unconnected(err error) *Error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return seen(err, "connection refused")
	case late(err):
		return seen(err, "no connection in time")
	case errors.Is(err, syscall.ECONNRESET):
		return seen(err, "connection reset")
	case errors.Is(err, context.Canceled):
		return seen(err, "not tested: given up")
	}
	return seen(err, "no connection: %s", cause(err))
}

func late(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
}

// cause leaves out what the net packages wrap around an error: addresses with ephemeral ports.
func cause(err error) string {
	var parse *url.Error
	if errors.As(err, &parse) {
		err = parse.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err.Error()
}

func bare(awaited string) string {
	for _, article := range []string{"an ", "a ", "the "} {
		awaited = strings.TrimPrefix(awaited, article)
	}
	return awaited
}

// shown is how many bytes of an answer an error shows.
const shown = 80

// begins quotes the first bytes of an answer.
func begins(body []byte) string {
	if len(body) == 0 {
		return "empty"
	}
	more := ""
	if len(body) > shown {
		body, more = body[:shown], "…"
		for i := 1; i < utf8.UTFMax && !utf8.Valid(body[len(body)-i:]); i++ {
			if utf8.RuneStart(body[len(body)-i]) { // a character that was cut
				body = body[:len(body)-i]
				break
			}
		}
	}
	return fmt.Sprintf("begins %q%s", body, more)
}
