package v1alpha1_test

import (
	"maps"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Texts close to what is right.
const (
	nearURL    = `(https?|ftp|HTTP|)(:|://|:/|)(a|[[]::1]|[[]::1|user@|:80|)(:80|:x|:|)(/[a-z%#? é]{0,4}|)`
	nearNumber = `[-+ ]?[0-9]{0,3}[.]?[0-9]{0,3}([eEx][-+]?[0-9]{0,3})?|[-+]?[Ii]nf|NaN|0x1p1|1_0`
)

// randomObject is a VirtualServer as somebody might write it, as JSON's values.
func randomObject(t *rapid.T) any {
	d := dice{t}
	long := strings.Repeat("a", 63)
	colour := `[-_.a-zA-Z0-9 é]{0,64}`
	colours := []any{"v1", "v2", "1.10", "a_b", long}
	spec := map[string]func() any{
		"service": func() any {
			return d.object(map[string]func() any{"name": d.text(false, `[-.a-zA-Z0-9]{0,64}`, "myapp", "7-app", long)})
		},
		"colourLabel": d.text(true, `[-_./a-zA-Z0-9]{0,70}`, "", "version", "example.com/colour", strings.Repeat("a.", 126)+"a/"+long),
		"active":      d.text(false, colour, colours...),
		"preview": d.maybe(map[string]func() any{
			"colour":   d.text(false, colour, colours...),
			"nodePort": d.field(true, 1, 31080, 65535),
			"sources":  d.list(3, d.text(false, `([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}|(::ffff:)?[0-9a-f:]{2,9}/[0-9]{1,3}`, "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/64", "::/0", "2001:0db8:0000:0000:0000:0000:192.168.100.100/128")),
		}),
		"scheduler":  d.scheduler(),
		"forwarding": d.field(true, "", "masquerade", "tunnel", "direct"),
		"steering":   d.field(true, "", "Auto", "Address", "Mark"),
		"switch": d.maybe(map[string]func() any{
			"gate": d.maybe(map[string]func() any{
				"minReady": d.minReady(),
				"nodes":    d.text(true, `[0-9]{1,3}%|[Aa]ll`, "", "All", "1%", "50%", "100%"),
				"timeout":  d.duration(true),
				"probe":    d.probe(),
			}),
			"steps": d.steps(),
			"observe": d.maybe(map[string]func() any{
				"window":      d.duration(true),
				"minReady":    d.minReady(),
				"onFailure":   d.field(true, "", "Rollback", "Hold"),
				"probe":       d.probe(),
				"connections": d.field(true, true, false),
				"prometheus": d.maybe(map[string]func() any{
					"url": d.url(), "query": d.field(false, "up", "é"), "max": d.number(), "min": d.number(), "interval": d.duration(true),
				}),
			}),
			"hooks":  d.maybe(map[string]func() any{"before": d.hook(), "after": d.hook()}),
			"paused": d.field(true, true, false),
			"force":  d.text(true, colour, append(colours, "")...),
			"drain": d.maybe(map[string]func() any{
				"timeout":   d.duration(true),
				"onTimeout": d.field(true, "", "Keep", "Cut"),
			}),
		}),
	}
	return map[string]any{
		"apiVersion": "pointsman.io/v1alpha1",
		"kind":       "VirtualServer",
		"metadata":   map[string]any{"name": "myapp", "namespace": "default"},
		"spec":       d.object(spec),
	}
}

func (d dice) duration(optional bool) func() any {
	return d.text(optional, `[-+]?[0-9]{0,3}(\.[0-9]{0,2})?(ns|us|µs|ms|s|m|h|d|y|)([0-9]{1,8}(s|h))?`, "30s", "2m", "1h30m", "1.5h", "1ns", "+5m")
}

func (d dice) hook() func() any {
	return d.maybe(map[string]func() any{"url": d.url(), "timeout": d.duration(true)})
}

func (d dice) url() func() any {
	return d.text(false, nearURL, "http://a", "https://[::1]:8080/a?b=c#d", "HTTP://a.example/%20", "http://user:secret@a")
}

func (d dice) number() func() any { return d.text(true, nearNumber, "", "1", "-0.01", "1e-3") }

func (d dice) minReady() func() any {
	return d.text(true, `[-+]?[0-9]{1,3}(\.[0-9])?%?`, 1, 3, 2147483647, "1%", "80%", "100%")
}

// scheduler draws flags that go with the name, for the most part.
func (d dice) scheduler() func() any {
	return func() any {
		name := d.field(true, anys(append([]string{""}, v1alpha1.Schedulers...))...)()
		flags := []any{"flag-1", "flag-2", "flag-3"}
		for _, s := range []string{"sh", "mh"} {
			if name == s || d.rarely() {
				flags = append(flags, s+"-port", s+"-fallback")
			}
		}
		given := map[string]func() any{"name": func() any { return name }}
		if rapid.Bool().Draw(d.T, "flags") {
			given["flags"] = d.list(2, d.field(false, flags...))
		}
		return d.maybe(given)()
	}
}

func (d dice) probe() func() any {
	return func() any {
		port := d.field(true, 1, 80, 65535)
		kinds := map[string]func() any{
			"tcp": d.of(map[string]func() any{"port": port}),
			"tls": d.of(map[string]func() any{"port": port, "serverName": d.field(true, "", "myapp.example", strings.Repeat("é", 253))}),
			"http": d.of(map[string]func() any{
				"port": port, "scheme": d.field(true, "", "HTTP", "HTTPS"), "host": d.field(true, "", "a:80"),
				"path": d.text(true, `/?[a-z]{0,5}`, "", "/", "/ready", "/"+strings.Repeat("é", 2047)), "status": d.field(true, 100, 200, 599),
				"body": d.field(true, "", "ok", strings.Repeat("é", 1024)),
			}),
			"grpc": d.of(map[string]func() any{"port": port, "service": d.field(true, "", "myapp.v1")}),
		}
		given := map[string]func() any{}
		for _, kind := range sorted(kinds) {
			if d.rarely() {
				given[kind] = kinds[kind]
			}
		}
		kind := rapid.SampledFrom(sorted(kinds)).Draw(d.T, "kind")
		given[kind] = kinds[kind]
		return d.maybe(given)()
	}
}

func (d dice) of(fields map[string]func() any) func() any {
	return func() any { return d.object(fields) }
}

// steps draws weights that go up, for the most part.
func (d dice) steps() func() any {
	weight := 0
	return d.list(4, func() any {
		weight += rapid.IntRange(1, 24).Draw(d.T, "more")
		if d.rarely() {
			weight = rapid.IntRange(-1, 101).Draw(d.T, "any")
		}
		return d.object(map[string]func() any{"weight": d.field(false, weight), "hold": d.duration(false)})
	})
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func anys(of []string) []any {
	out := make([]any, len(of))
	for i, s := range of {
		out[i] = s
	}
	return out
}
