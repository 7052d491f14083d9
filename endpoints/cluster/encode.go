package cluster

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/jsontext"
)

// encode is json.Marshal for Servers, byte by byte. Nearly all of the text is endpoints, and while some of them change it
// is made every few seconds on every node: without reflection that is a tenth of the work. It is made in
// pieces, since json.Marshal keeps a buffer of the size of all that it ever wrote.
func encode(servers []endpoints.Server) ([]byte, error) {
	size := 2
	for i := range servers {
		size += 1024
		for _, p := range servers[i].Ports {
			size += 128 * len(p.Endpoints)
		}
	}
	out := append(make([]byte, 0, size), '[')
	for i := range servers {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendServer(out, &servers[i]); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

func appendServer(out []byte, s *endpoints.Server) ([]byte, error) {
	bare := *s
	bare.Ports, bare.Coming = nil, nil
	text, err := json.Marshal(&bare)
	if err != nil {
		return nil, err
	}
	head, ok := bytes.CutSuffix(text, []byte("null}"))
	if !ok || s.Ports == nil || len(s.Coming) > 0 {
		text, err = json.Marshal(s)
		return append(out, text...), err
	}
	out = append(append(out, head...), '[')
	for i := range s.Ports {
		if i > 0 {
			out = append(out, ',')
		}
		p := &s.Ports[i]
		ways, err := json.Marshal(p.Ways)
		if err != nil {
			return nil, err
		}
		out = jsontext.AppendString(append(out, `{"Name":`...), p.Name)
		out = jsontext.AppendString(append(out, `,"Protocol":`...), string(p.Protocol))
		out = append(append(out, `,"Ways":`...), ways...)
		out = append(out, `,"Endpoints":`...)
		out = append(appendEndpoints(out, p.Endpoints), '}')
	}
	return append(out, "]}"...), nil
}

func appendEndpoints(out []byte, all []endpoints.Endpoint) []byte {
	if all == nil {
		return append(out, "null"...)
	}
	out = append(out, '[')
	for i := range all {
		if i > 0 {
			out = append(out, ',')
		}
		e := &all[i]
		out = append(out, `{"Addr":"`...)
		if e.Addr.IsValid() {
			out = e.Addr.AppendTo(out)
		}
		out = jsontext.AppendString(append(out, `","Colour":`...), e.Colour)
		out = jsontext.AppendString(append(out, `,"Node":`...), e.Node)
		out = strconv.AppendUint(append(out, `,"Port":`...), uint64(e.Port), 10)
		out = strconv.AppendBool(append(out, `,"Ready":`...), e.Ready)
		out = strconv.AppendBool(append(out, `,"Serving":`...), e.Serving)
		out = append(strconv.AppendBool(append(out, `,"Terminating":`...), e.Terminating), '}')
	}
	return append(out, ']')
}
