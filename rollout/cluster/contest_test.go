package cluster

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

// Two daemons on a node would put each other's reports right for good: who was overwritten lately waits.
func TestReportThatSomebodyElseWritesToo(t *testing.T) {
	var version atomic.Int64
	version.Store(10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var report v1alpha1.NodeReport
		require.Equal(t, http.MethodPut, r.Method)
		require.NoError(t, json.NewDecoder(r.Body).Decode(&report))
		report.ResourceVersion = strconv.FormatInt(version.Add(1), 10)
		w.Header().Set("Content-Type", "application/json")
		require.NoError(t, json.NewEncoder(w).Encode(report))
	}))
	defer server.Close()
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	r, err := NewReporter(&rest.Config{Host: server.URL}, Options{NodeName: "n1", NodeUID: "u", Log: log})
	require.NoError(t, err)
	foreign := func() {
		report := &v1alpha1.NodeReport{}
		report.Name, report.ResourceVersion = "n1", strconv.FormatInt(version.Add(1), 10)
		report.Status.Error = "somebody else's"
		r.known.see(report)
	}
	writes := func() int64 { return version.Load() }

	foreign() // what was there before the start is taken over at once
	r.Post(&sync.Status{})
	before := writes()
	require.Zero(t, r.step(t.Context(), time.Now()))
	require.Equal(t, before+1, writes())

	foreign()
	before = writes()
	wait := r.step(t.Context(), time.Now())
	require.Greater(t, wait, contestEvery/2)
	require.Equal(t, before, writes(), "written at once")
	require.ErrorContains(t, r.Healthy(), "does a second daemon run on this node?")
	require.Zero(t, r.step(t.Context(), time.Now().Add(contestEvery)))
	require.Equal(t, before+1, writes(), "put right in time")

	// With nobody else, a change is written at once, or nearly.
	require.NoError(t, r.Healthy())
	r.Post(&sync.Status{Error: "a pass failed"})
	before = writes()
	require.Zero(t, r.step(t.Context(), r.wrote.Add(contestEvery/10)))
	require.Equal(t, before+1, writes())
	require.NoError(t, r.Healthy())

	// One that took a while leaves the API server alone for some.
	r.took = time.Second
	r.Post(&sync.Status{Error: "another one did"})
	before = writes()
	require.Equal(t, (writeShare-1)*time.Second, r.step(t.Context(), r.wrote.Add(time.Second)))
	require.Equal(t, before, writes(), "written at once")
	require.Zero(t, r.step(t.Context(), r.wrote.Add(writeShare*time.Second)))
	require.Equal(t, before+1, writes())
}
