package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// runGRPC asks the health service (grpc.health.v1.Health/Check) over cleartext HTTP/2, as kubelet does.
//
// The call is made by hand: net/http speaks HTTP/2 and protowire is linked already, while google.golang.org/grpc would
// add megabytes for two messages of one field each. The tests have its server as the peer.
func runGRPC(ctx context.Context, p *v1alpha1.GRPCProbe, to netip.AddrPort) *Error {
	conn, fault := dial(ctx, to)
	if fault != nil {
		return fault
	}
	defer func() { _ = conn.Close() }()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	peer := &mute{Conn: conn}
	answer, err := over(peer, &protocols).RoundTrip(healthCheck(ctx, p.Service, to))
	if err != nil {
		return wordsGRPC(peer.cause(err))
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return seen(nil, "gRPC: HTTP status %d, want 200", answer.StatusCode)
	}
	if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/grpc") {
		return &Error{Seen: "gRPC: the answer is no gRPC", Detail: "content type " + quote(kind)}
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil {
		return wordsGRPC(err)
	}
	trailer := answer.Trailer
	if len(body) == 0 && answer.Header.Get("Grpc-Status") != "" { // "trailers only": an error
		trailer = answer.Header
	}
	return judgeGRPC(p.Service, trailer, body)
}

func wordsGRPC(err error) *Error {
	return words(err, "a gRPC answer")
}

func healthCheck(ctx context.Context, service string, to netip.AddrPort) *http.Request {
	var message []byte
	if service != "" { // HealthCheckRequest{string service = 1}
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	frame := append(make([]byte, 5), message...) // not compressed, then the length
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))

	address := url.URL{Scheme: "http", Host: netip.AddrPortFrom(to.Addr().WithZone(""), to.Port()).String(), Path: "/grpc.health.v1.Health/Check"}
	request := &http.Request{
		Method: http.MethodPost, URL: &address, Host: address.Host,
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {userAgent}},
		Body:   io.NopCloser(bytes.NewReader(frame)), ContentLength: int64(len(frame)),
	}
	return request.WithContext(ctx)
}

// judgeGRPC reads the status of the call, and if that is OK the message: HealthCheckResponse{ServingStatus status = 1}.
func judgeGRPC(service string, trailer http.Header, body []byte) *Error {
	asked := "the server"
	if service != "" {
		asked = "service " + quote(service)
	}
	switch code := trailer.Get("Grpc-Status"); code {
	case "0":
	case "5":
		return seen(nil, "gRPC NOT_FOUND: its health service does not know %s", asked)
	case "12":
		return seen(nil, "gRPC UNIMPLEMENTED: it has no health service")
	case "":
		return seen(nil, "gRPC: the answer ends without a status")
	default:
		fault := seen(nil, "gRPC status %s", quote(code))
		if text, err := url.PathUnescape(trailer.Get("Grpc-Message")); err == nil && text != "" {
			fault.Detail = quote(text)
		}
		return fault
	}
	status, err := servingStatus(body)
	if err != nil {
		return seen(err, "gRPC: the answer is no HealthCheckResponse")
	}
	if names := []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}; status >= uint64(len(names)) {
		return seen(nil, "gRPC: %s has health status %d, want SERVING", asked, status)
	} else if status != 1 {
		return seen(nil, "gRPC %s: %s is not serving", names[status], asked)
	}
	return nil
}

var errNoMessage = errors.New("not one uncompressed message")

func servingStatus(body []byte) (uint64, error) {
	if len(body) < 5 || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-5) {
		return 0, errNoMessage
	}
	status := uint64(0)
	for message := body[5:]; len(message) > 0; {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
		if number == 1 && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(message)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return status, nil
}
