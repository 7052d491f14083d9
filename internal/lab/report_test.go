package lab

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var zero = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }

// to is a connection that went well: started, answered 5 ms later.
func to(colour string, start int) Connection {
	return Connection{Start: at(start), Answered: at(start + 5), Ended: at(start + 6), Colour: colour,
		Backend: netip.MustParseAddr("10.0.0.1")}
}

func TestReportCounts(t *testing.T) {
	r := newReport(
		[]Connection{to("v2", 30), {Start: at(40), Class: Refused}},
		[]Connection{to("v1", 10), to("v1", 20), {Start: at(50), Colour: "v1", Class: Reset}})
	require.Equal(t, map[string]int{"v1": 3, "v2": 1}, r.ByColour())
	require.Equal(t, map[Class]int{Refused: 1, Reset: 1}, r.ByClass())
	require.Equal(t, "v1 3, v2 1; refused 1, reset 1", r.String())
	require.Equal(t, "none", Report(nil).String())
	require.Len(t, r.Failed(), 2)
	require.Len(t, r.To("v1"), 3)
	require.Len(t, r.Backends(), 1)
	require.Len(t, r.Since(at(30)), 3)
	require.Len(t, r.Until(at(30)), 2)
	require.True(t, r[0].Start.Equal(at(10)), "in the order of their start, whoever wrote them down")
}

func TestReportLost(t *testing.T) {
	slow := Connection{Start: at(0), Connected: at(1200), Ended: at(1500), Class: Reset}
	cut := Connection{Start: at(10), Connected: at(12), Ended: at(1500), Class: Reset}
	inside := Connection{Start: at(20), Ended: at(1100), Class: Reset}
	refused := Connection{Start: at(30), Ended: at(1100), Class: Refused}
	late := Connection{Start: at(40), Connected: at(1300), Ended: at(9000), Class: Timeout}
	require.Equal(t, Report{cut, refused, late}, Report{slow, cut, inside, refused, late, to("v1", 50)}.Lost())
}

func TestReportMixed(t *testing.T) {
	for name, c := range map[string]struct {
		report Report
		mixed  int
	}{
		"a clean switch":                         {newReport([]Connection{to("v1", 0), to("v1", 10), to("v2", 12), to("v2", 20)}), 0},
		"none to the new colour":                 {newReport([]Connection{to("v1", 0), to("v1", 10)}), 0},
		"old one that started before the answer": {newReport([]Connection{to("v2", 10), to("v1", 14)}), 0},
		"old one at the very instant":            {newReport([]Connection{to("v2", 10), to("v1", 15)}), 0},
		"old one that started after the answer":  {newReport([]Connection{to("v2", 10), to("v1", 16)}), 1},
		"two of them":                            {newReport([]Connection{to("v1", 5), to("v2", 10), to("v1", 16), to("v2", 17), to("v1", 30)}), 2},
		"a later start that was answered sooner": {newReport([]Connection{
			{Start: at(10), Answered: at(40), Colour: "v2"}, {Start: at(12), Answered: at(14), Colour: "v2"}, to("v1", 20)}), 1},
	} {
		t.Run(name, func(t *testing.T) { require.Len(t, c.report.Mixed("v1", "v2"), c.mixed) })
	}
}

func TestReportLinesAreFew(t *testing.T) {
	var r Report
	for i := range 25 {
		r = append(r, Connection{Start: at(i), Ended: at(i + 7), Class: Refused, Err: unix.ECONNREFUSED})
	}
	require.Contains(t, r.Lines(), "refused after 7ms: connection refused\n")
	require.Contains(t, r.Lines(), "… and 15 more\n")
	require.Empty(t, Report(nil).Lines())
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, OK},
		{os.NewSyscallError("connect", unix.ECONNREFUSED), Refused},
		{fmt.Errorf("reading: %w", unix.ECONNRESET), Reset},
		{unix.EPIPE, Reset},
		{fmt.Errorf("reading: %w", os.ErrDeadlineExceeded), Timeout},
		{unix.ETIMEDOUT, Timeout},
		{unix.EHOSTUNREACH, Other},
		{noEOF(io.EOF), Other},
	} {
		require.Equal(t, c.want, classify(c.err), "%v", c.err)
	}
}

func TestParseAnswer(t *testing.T) {
	colour, pod, client, err := parseAnswer("v1 10.244.140.76 10.244.140.1\n")
	require.NoError(t, err)
	require.Equal(t, "v1 10.244.140.76 10.244.140.1", fmt.Sprint(colour, " ", pod, " ", client))
	for _, bad := range []string{"", "v1\n", "v1 10.244.140.76\n", "HTTP/1.1 200 OK\n", "v1 10.0.0.1 nobody\n"} {
		colour, _, _, err := parseAnswer(bad)
		require.Error(t, err, bad)
		require.Empty(t, colour)
	}
}

func TestDatagrams(t *testing.T) {
	d := Datagrams{
		{Sent: at(0), Answered: at(1), Colour: "v1"},
		{Sent: at(10)},
		{Sent: at(20), Answered: at(21), Colour: "v2"},
	}
	require.Equal(t, "v1 1, v2 1; lost 1", d.String())
	require.Equal(t, 0, d.Between(time.Time{}, at(10)).Lost())
	require.Equal(t, map[string]int{"v2": 1}, d.Between(at(10), time.Time{}).ByColour())
}
