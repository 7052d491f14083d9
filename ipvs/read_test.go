package ipvs_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pointsman/pointsman/ipvs"
)

// reading is one reading of a list: a letter for each entry, upper case for another weight.
type reading struct {
	entries string
	whole   bool
	err     error
}

func (r reading) list() []ipvs.RealInfo {
	var list []ipvs.RealInfo
	for _, e := range r.entries {
		info := ipvs.RealInfo{RealServer: masquerade("10.0.0.1:80", 1), Active: uint32(len(list))}
		info.Port = uint16(e | 0x20)
		info.Weight = uint32(e & 0x20)
		list = append(list, info)
	}
	return list
}

// Which readings make a list that is of one moment.
func TestSettle(t *testing.T) {
	fault := errors.New("fault")
	for name, test := range map[string]struct {
		readings []reading
		want     string
		err      error
		used     int
	}{
		"one part is right at once":         {[]reading{{entries: "abc", whole: true}}, "abc", nil, 1},
		"two that are alike":                {[]reading{{entries: "abc"}, {entries: "abc"}}, "abc", nil, 2},
		"one that is missing is not":        {[]reading{{entries: "abc"}, {entries: "ac"}, {entries: "ac"}}, "ac", nil, 3},
		"nor another weight":                {[]reading{{entries: "abc"}, {entries: "aBc"}, {entries: "aBc"}}, "aBc", nil, 3},
		"nor another order":                 {[]reading{{entries: "abc"}, {entries: "bac"}, {entries: "bac"}}, "bac", nil, 3},
		"one twice is never right":          {[]reading{{entries: "abb"}, {entries: "abb"}, {entries: "ab"}, {entries: "ab"}}, "ab", nil, 4},
		"one part after several":            {[]reading{{entries: "abc"}, {entries: "b", whole: true}}, "b", nil, 2},
		"an error ends it":                  {[]reading{{entries: "abc"}, {err: fault}}, "", fault, 2},
		"a table that never rests":          {[]reading{{entries: "a"}, {entries: "b"}, {entries: "a"}, {entries: "b"}, {entries: "a"}, {entries: "b"}, {entries: "a"}, {entries: "b"}, {entries: "a"}, {entries: "b"}}, "", ipvs.ErrInterrupted, 9},
		"of two that are not in a row none": {[]reading{{entries: "ab"}, {entries: "a"}, {entries: "ab"}, {entries: "ab"}}, "ab", nil, 4},
	} {
		t.Run(name, func(t *testing.T) {
			used := 0
			got, err := ipvs.Settle(func() ([]ipvs.RealInfo, bool, error) {
				r := test.readings[used]
				used++
				return r.list(), r.whole, r.err
			})
			assert.ErrorIs(t, err, test.err)
			assert.Equal(t, test.used, used)
			if test.err == nil {
				assert.Equal(t, reading{entries: test.want}.list(), got)
			}
		})
	}
}

func TestSameServices(t *testing.T) {
	a := ipvs.ServiceInfo{Service: service(web, "rr")}
	b := ipvs.ServiceInfo{Service: service("FWM 7", "rr")}
	counted := a
	counted.Counters.Conns = 9
	edited := a
	edited.Scheduler = "wrr"
	list := func(s ...ipvs.ServiceInfo) []ipvs.ServiceInfo { return s }
	assert.True(t, ipvs.SameServices(list(a, b), list(counted, b)))
	assert.True(t, ipvs.SameServices(nil, nil))
	assert.False(t, ipvs.SameServices(list(a, b), list(b, a)))
	assert.False(t, ipvs.SameServices(list(a, b), list(edited, b)))
	assert.False(t, ipvs.SameServices(list(a, b), list(a)))
	assert.False(t, ipvs.SameServices(list(a, a), list(a, a)))
}
