package sync

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/pointsman/pointsman/internal/jsontext"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/rollout"
)

// encode is the text of the ledger file: json.Marshal of a ledgerJSON, byte by byte. It is made, and written, before a real
// server may drain, and with many virtual servers all of the others are in it; so what they nearly always are is
// written without reflection.
func (l *Ledger) encode() ([]byte, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	out := append(jsontext.AppendString([]byte(`{"boot":`), boot), `,"owned":[`...)
	out = slices.Grow(out, 256*(len(l.Owned)+len(l.Rollouts)))
	for i, key := range slices.SortedFunc(maps.Keys(l.Owned), compareKeys) {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = appendOwned(out, key, l.Owned[key]); err != nil {
			return nil, err
		}
	}
	out = append(out, `],"rollouts":{`...)
	for i, name := range slices.SortedFunc(maps.Keys(l.Rollouts), compareNames) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(jsontext.AppendString(out, name.String()), ':')
		state := l.Rollouts[name]
		if out, err = appendState(out, &state); err != nil {
			return nil, err
		}
	}
	out = append(out, '}')
	if len(l.Sysctls) > 0 {
		text, err := json.Marshal(l.Sysctls)
		if err != nil {
			return nil, err
		}
		out = append(append(out, `,"sysctls":`...), text...)
	}
	if l.Undone {
		out = append(out, `,"undoneByKubeProxy":true`...)
	}
	return append(out, '}'), nil
}

func appendOwned(out []byte, key ipvs.Key, o *Owned) ([]byte, error) {
	if len(o.Draining) > 0 || o.Lane != "" || o.Protocol != 0 || !key.Addr.IsValid() {
		e := ownedJSON{Key: key, Owner: o.Owner.String(), Lane: o.Lane, Protocol: o.Protocol, Drain: o.Drain}
		for real, d := range o.Draining {
			e.Draining = append(e.Draining, drainingJSON{Real: real, Colour: d.Colour, Since: d.Since})
		}
		slices.SortFunc(e.Draining, func(a, b drainingJSON) int { return compareReals(a.Real, b.Real) })
		text, err := json.Marshal(&e)
		return append(out, text...), err
	}
	out = strconv.AppendUint(append(out, `{"key":{"Mark":`...), uint64(key.Mark), 10)
	out = strconv.AppendUint(append(out, `,"Protocol":`...), uint64(key.Protocol), 10)
	out = key.Addr.AppendTo(append(out, `,"Addr":"`...))
	out = strconv.AppendUint(append(out, `","Port":`...), uint64(key.Port), 10)
	out = jsontext.AppendString(append(out, `},"owner":`...), o.Owner.String())
	out = strconv.AppendInt(append(out, `,"drain":{"timeout":`...), int64(o.Drain.Timeout), 10)
	if o.Drain.Cut {
		out = append(out, `,"cut":true`...)
	}
	return append(out, "}}"...), nil
}

func appendState(out []byte, s *rollout.State) ([]byte, error) {
	simple := rollout.State{ // of which the other fields are zero, and left out
		Active: s.Active, Previous: s.Previous, Retiring: s.Retiring, Target: s.Target, Candidate: s.Candidate,
		Decision: s.Decision, Phase: s.Phase, Declaration: s.Declaration, Of: s.Of,
	}
	if !simple.Equal(*s) {
		text, err := json.Marshal(s)
		return append(out, text...), err
	}
	out = jsontext.AppendString(append(out, `{"active":`...), s.Active)
	field := func(name, value string) {
		if value != "" {
			out = jsontext.AppendString(append(append(append(out, ',', '"'), name...), '"', ':'), value)
		}
	}
	field("previous", s.Previous)
	field("retiring", s.Retiring)
	field("target", s.Target)
	field("candidate", s.Candidate)
	if s.Decision != 0 {
		out = strconv.AppendInt(append(out, `,"decision":`...), s.Decision, 10)
	}
	out = jsontext.AppendString(append(out, `,"phase":`...), string(s.Phase))
	field("declaration", s.Declaration)
	field("of", s.Of)
	return append(out, '}'), nil
}
