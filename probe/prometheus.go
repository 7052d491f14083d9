package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
)

// Errors of a query that a caller decides on: Prometheus answered, but with no number to compare.
var (
	// ErrNoSample: nothing matches, or not yet.
	ErrNoSample = errors.New("the query gives no sample")
	// ErrManySamples: the query has to be made of one number, with sum() for instance.
	ErrManySamples = errors.New("the query gives more than one sample")
	// ErrNaN: not a number, which is what a ratio gives when there was no request.
	ErrNaN = errors.New("the query gives NaN")
)

// Value makes an instant query at a Prometheus HTTP API, with the server's idea of now: a scalar, or a vector of one
// sample. The address is the server's, with any path that stands before /api/v1. It is tried once, for as long as
// the context allows.
func Value(ctx context.Context, address, query string) (float64, error) {
	value, err := instant(ctx, address, query)
	if err != nil {
		return 0, fmt.Errorf("prometheus: %w", err)
	}
	return value, nil
}

// instantAnswer is what /api/v1/query answers.
type instantAnswer struct {
	Status, ErrorType, Error string
	Data                     struct {
		ResultType string
		Result     json.RawMessage
	}
}

// sample is [seconds, "value"].
type sample [2]any

func instant(ctx context.Context, address, query string) (float64, error) {
	// Not url.Parse and JoinPath: post says what is wrong with an address, in one way.
	at := strings.TrimSuffix(address, "/") + "/api/v1/query"
	answer, body, err := post(ctx, at, "application/x-www-form-urlencoded", strings.NewReader(url.Values{"query": {query}}.Encode()))
	if err != nil {
		return 0, err
	}
	where := publicly(answer.Request.URL)
	var got instantAnswer
	parsed := json.Unmarshal(body, &got)
	switch {
	case parsed == nil && got.Status == "error": // with a status of 400, 422 or 503
		return 0, fmt.Errorf("%s: %s: %s", where, got.ErrorType, got.Error)
	case answer.StatusCode != 200:
		return 0, fmt.Errorf("%s: %w", where, &Error{Seen: fmt.Sprintf("HTTP status %d, want 200", answer.StatusCode), Detail: "body " + begins(body)})
	case len(body) == maxAnswer:
		return 0, fmt.Errorf("%s: %w", where, ErrManySamples)
	case parsed != nil || got.Status != "success":
		return 0, fmt.Errorf("%s: %w", where, &Error{Seen: "the answer is not Prometheus's", Detail: "body " + begins(body), Err: parsed})
	}
	return one(got.Data.ResultType, got.Data.Result)
}

// one takes the one number out of a result.
func one(kind string, result json.RawMessage) (float64, error) {
	var point sample
	switch kind {
	case "scalar":
		if err := json.Unmarshal(result, &point); err != nil {
			return 0, fmt.Errorf("the scalar does not parse: %w", err)
		}
	case "vector":
		var vector []struct{ Value sample }
		if err := json.Unmarshal(result, &vector); err != nil {
			return 0, fmt.Errorf("the vector does not parse: %w", err)
		}
		switch len(vector) {
		case 0:
			return 0, ErrNoSample
		case 1:
			point = vector[0].Value
		default:
			return 0, fmt.Errorf("%w, %d: make it one, with sum() for instance", ErrManySamples, len(vector))
		}
	default:
		return 0, fmt.Errorf("the query gives a %s, want a scalar or a vector of one sample", quote(kind))
	}
	text, ok := point[1].(string)
	if !ok {
		return 0, errors.New("the sample is no number") // a native histogram has no value
	}
	value, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange): // beyond the range it is an infinity, and compares as one
		return 0, fmt.Errorf("the sample %s is no number", quote(text))
	case math.IsNaN(value):
		return 0, ErrNaN
	}
	return value, nil
}
