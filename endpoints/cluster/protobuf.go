package cluster

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/pointsman/pointsman/endpoints"
)

// field is one of a protobuf message. The numbers are those of the generated.proto beside each of Kubernetes' types, and stay.
type field struct {
	number protowire.Number
	bytes  []byte // of a text or message; of the message that is read
	varint uint64 // of a number or truth
}

// fields calls f for each field of a message that has one of the two encodings that are read.
func fields(message []byte, f func(field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		one := field{number: number}
		switch kind {
		case protowire.BytesType:
			one.bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			one.varint, n = protowire.ConsumeVarint(message)
		default:
			if n = protowire.ConsumeFieldValue(number, kind, message); n >= 0 {
				message = message[n:]
				continue
			}
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := f(one); err != nil {
			return err
		}
	}
	return nil
}

// unwrap is the message in a runtime.Unknown behind its prefix.
func unwrap(object []byte) (raw []byte, err error) {
	object, ok := bytes.CutPrefix(object, protobufPrefix)
	if !ok {
		return nil, errors.New("an object without the prefix of protobuf")
	}
	err = fields(object, func(f field) error {
		switch f.number {
		case 2:
			raw = f.bytes
		case 3:
			if len(f.bytes) > 0 {
				return fmt.Errorf("an object encoded as %q", f.bytes)
			}
		}
		return nil
	})
	return raw, err
}

// readInto reads a discovery.k8s.io/v1 EndpointSlice.
func (r sliceReader) readInto(s *slice, message []byte) error {
	out := &s.of
	out.Source = r.source
	n, m := 0, 0
	if err := fields(message, func(f field) error {
		switch f.number {
		case 2:
			n++
		case 3:
			m++
		}
		return nil
	}); err != nil {
		return err
	}
	out.Endpoints, out.Ports = make([]endpoints.SliceEndpoint, 0, n), make([]endpoints.SlicePort, 0, m)
	err := fields(message, func(f field) error {
		switch f.number {
		case 1:
			return r.readMeta(s, f.bytes)
		case 2:
			return r.readEndpoint(out, f.bytes)
		case 3:
			return r.readPort(out, f.bytes)
		case 4:
			out.AddressType = discoveryv1.AddressType(r.names.of(f.bytes))
		}
		return nil
	})
	out.Namespace, out.Name = s.Namespace, s.Name
	return err
}

func (r sliceReader) readMeta(s *slice, message []byte) error {
	m := &s.ObjectMeta
	return fields(message, func(f field) error {
		switch f.number {
		case 1:
			m.Name = string(f.bytes)
		case 3:
			m.Namespace = r.names.of(f.bytes)
		case 6:
			m.ResourceVersion = string(f.bytes)
		case 11:
			key, value, err := readEntry(f.bytes)
			s.of.AddLabel(r.names.of(key), r.names.of(value))
			return err
		}
		return nil
	})
}

// readEntry reads an entry of a map.
func readEntry(message []byte) (key, value []byte, err error) {
	err = fields(message, func(f field) error {
		switch f.number {
		case 1:
			key = f.bytes
		case 2:
			value = f.bytes
		}
		return nil
	})
	return key, value, err
}

func (r sliceReader) readEndpoint(s *endpoints.EndpointSlice, message []byte) error {
	e := endpoints.SliceEndpoint{Ready: true, Serving: true}
	var address, pod []byte
	is := false // that the targetRef is a Pod
	err := fields(message, func(f field) error {
		switch f.number {
		case 1:
			if address == nil { // the API gives no meaning to further ones
				address = f.bytes
			}
		case 2:
			return fields(f.bytes, func(f field) error {
				switch f.number {
				case 1:
					e.Ready = f.varint != 0
				case 2:
					e.Serving = f.varint != 0
				case 3:
					e.Terminating = f.varint != 0
				}
				return nil
			})
		case 4:
			return fields(f.bytes, func(f field) error {
				switch f.number {
				case 1:
					is = string(f.bytes) == "Pod"
				case 3:
					pod = f.bytes
				}
				return nil
			})
		case 6:
			e.Node = r.names.of(f.bytes)
		}
		return nil
	})
	if is {
		e.Pod = string(pod)
	}
	s.AddEndpoint(string(address), e)
	return err
}

func (r sliceReader) readPort(s *endpoints.EndpointSlice, message []byte) error {
	var name, protocol string
	var port int32
	err := fields(message, func(f field) error {
		switch f.number {
		case 1:
			name = r.names.of(f.bytes)
		case 2:
			protocol = r.names.of(f.bytes)
		case 3:
			port = int32(f.varint)
		}
		return nil
	})
	s.AddPort(name, protocol, int64(port))
	return err
}
