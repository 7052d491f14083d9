package probe_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/probe"
)

func TestHook(t *testing.T) {
	type body struct {
		Name string `json:"name"`
	}
	var asked, elsewhere atomic.Int32
	to := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var got body
		text, err := io.ReadAll(r.Body)
		if assert.NoError(t, err) && assert.NoError(t, json.Unmarshal(text, &got)) {
			assert.Equal(t, body{"myapp"}, got)
		}
		assert.Equal(t, "POST application/json", r.Method+" "+r.Header.Get("Content-Type"))
		switch r.URL.Path {
		case "/made":
			w.WriteHeader(http.StatusCreated)
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/moved":
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "/elsewhere":
			elsewhere.Add(1)
		case "/fails":
			http.Error(w, "no "+strings.Repeat("!", 200), http.StatusInternalServerError)
		case "/long":
			_, _ = w.Write(make([]byte, 2<<20))
		}
	})
	at := "http://" + to.String()
	for _, path := range []string{"", "/", "/made", "/none", "/long"} {
		assert.NoError(t, probe.Post(patient(t), at+path, body{"myapp"}), path)
	}
	assert.EqualValues(t, 5, asked.Load(), "each once")
	wantSeen(t, probe.Post(patient(t), at+"/moved", body{"myapp"}), "hook: "+at+"/moved: HTTP status 307, want 2xx: body empty")
	assert.Zero(t, elsewhere.Load(), "a redirect is not followed")
	err := probe.Post(patient(t), at+"/fails?token=secret", body{"myapp"})
	wantSeen(t, err, fmt.Sprintf("hook: %s/fails: HTTP status 500, want 2xx: body begins %q…", at, "no "+strings.Repeat("!", 77)))
	assert.EqualValues(t, 7, asked.Load(), "none is tried again")

	err = probe.Post(patient(t), at, make(chan int))
	require.Error(t, err)
	assert.Contains(t, err.Error(), "hook: the body: ")
}

func TestOutsideThatDoesNotAnswer(t *testing.T) {
	calls := map[string]func(context.Context, string) error{
		"hook":       func(ctx context.Context, at string) error { return probe.Post(ctx, at, "x") },
		"prometheus": func(ctx context.Context, at string) error { _, err := probe.Value(ctx, at, "up"); return err },
	}
	for name, call := range calls {
		path := map[string]string{"prometheus": "/api/v1/query"}[name]
		at := func(address string) string { return name + ": http://" + address + path + ": " }
		none, mute, deaf := nobody(t), listen(t, hang), full(t)
		wantSeen(t, call(patient(t), "http://"+none.String()), at(none.String())+"no proper answer: connection refused")
		wantSeen(t, call(brief(t), "http://"+mute.String()), at(mute.String())+"accepts, but an answer did not come in time")
		err := call(brief(t), "http://user:secret@"+deaf.String()+"/?token=secret")
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "secret")

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		assert.ErrorIs(t, call(ctx, "http://"+none.String()), context.Canceled)
		wantSeen(t, call(patient(t), "ftp://"+none.String()), name+": ftp://"+none.String()+path+" is not an http or https URL")
		wantSeen(t, call(patient(t), "http://%zz:secret"), name+": the URL does not parse")
	}
}

// prometheus answers each query as a server of Prometheus does, by its path: a result, or an error.
func prometheus(t *testing.T, status int, answer string) string {
	to := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prom/api/v1/query" || r.FormValue("query") != `sum(rate(x{a="b"}[1m])) > 0` {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
	return "http://" + to.String() + "/prom/"
}

const query = `sum(rate(x{a="b"}[1m])) > 0`

func result(kind, result string) string {
	return `{"status":"success","data":{"resultType":"` + kind + `","result":` + result + `},"warnings":["w"]}`
}

func TestPrometheusValue(t *testing.T) {
	for answer, want := range map[string]float64{
		result("vector", `[{"metric":{"a":"b"},"value":[1700000000.1,"0.25"]}]`): 0.25,
		result("vector", `[{"metric":{},"value":[1700000000,"-3e5"]}]`):          -3e5,
		result("vector", `[{"metric":{},"value":[1,"+Inf"]}]`):                   math.Inf(1),
		result("vector", `[{"metric":{},"value":[1,"1e999"]}]`):                  math.Inf(1),
		result("scalar", `[1700000000,"7"]`):                                     7,
	} {
		got, err := probe.Value(patient(t), prometheus(t, 200, answer), query)
		require.NoError(t, err, answer)
		assert.Equal(t, want, got, answer)
	}
}

func TestPrometheusWithoutValue(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		answer string
		err    error
		text   string
	}{
		"NaN":         {200, result("vector", `[{"metric":{},"value":[1,"NaN"]}]`), probe.ErrNaN, "prometheus: the query gives NaN"},
		"scalar NaN":  {200, result("scalar", `[1,"NaN"]`), probe.ErrNaN, "prometheus: the query gives NaN"},
		"nothing":     {200, result("vector", `[]`), probe.ErrNoSample, "prometheus: the query gives no sample"},
		"two":         {200, result("vector", `[{"value":[1,"1"]},{"value":[1,"2"]}]`), probe.ErrManySamples, "prometheus: the query gives more than one sample, 2: make it one, with sum() for instance"},
		"a matrix":    {200, result("matrix", `[]`), nil, `prometheus: the query gives a "matrix", want a scalar or a vector of one sample`},
		"a histogram": {200, result("vector", `[{"metric":{},"histogram":[1,{}]}]`), nil, "prometheus: the sample is no number"},
		"a word":      {200, result("scalar", `[1,"seven"]`), nil, `prometheus: the sample "seven" is no number`},
		"a bad query": {400, `{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}`, nil, "bad_data: parse error: unexpected end"},
		"too slow":    {503, `{"status":"error","errorType":"timeout","error":"query timed out"}`, nil, "timeout: query timed out"},
		"a proxy":     {502, "<html>Bad Gateway", nil, `HTTP status 502, want 200: body begins "<html>Bad Gateway"`},
		"a page":      {200, "<html>Hello", nil, `the answer is not Prometheus's: body begins "<html>Hello"`},
		"other JSON":  {200, `{"ok":true}`, nil, `the answer is not Prometheus's: body begins "{\"ok\":true}"`},
	} {
		t.Run(name, func(t *testing.T) {
			at := prometheus(t, c.status, c.answer)
			_, err := probe.Value(patient(t), at, query)
			require.Error(t, err)
			if c.err != nil {
				assert.ErrorIs(t, err, c.err)
			}
			if !strings.HasPrefix(c.text, "prometheus: ") {
				c.text = "prometheus: " + at + "api/v1/query: " + c.text
			}
			assert.Equal(t, c.text, err.Error())
		})
	}
	_, err := probe.Value(patient(t), (&url.URL{Scheme: "http", Host: listen(t, says("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")).String()}).String(), query)
	require.Error(t, err)
	assert.Contains(t, err.Error(), "connection closed before the end of the answer")
}
