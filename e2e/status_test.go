package e2e

import (
	"encoding/json"

	"github.com/stretchr/testify/require"
)

// status is what `pointsman status -o json` says, as far as these tests look at it.
type status struct {
	exit     int
	Running  bool   `json:"running"`
	Healthy  bool   `json:"healthy"`
	Error    string `json:"error"`
	Rejected int    `json:"rejected"`
	Errors   []struct{ Source, Message string }
	Servers  []struct {
		Name     string `json:"name"`
		Verified bool   `json:"verified"`
		Status   struct {
			Active     string `json:"active"`
			Phase      string `json:"phase"`
			Conditions []struct {
				Type, Status, Reason, Message string
			} `json:"conditions"`
		} `json:"status"`
	} `json:"virtualServers"`
}

// status asks for the status. Its exit status is 1 when something is wrong, and it still says what;
// before the daemon's first pass there is nothing to say.
func (w *world) status() status {
	w.t.Helper()
	r := w.call("status", "-o", "json")
	s := status{exit: r.Status}
	if r.Stdout == "" && r.Status != 0 {
		return s
	}
	require.NoError(w.t, json.Unmarshal([]byte(r.Stdout), &s), "%v", r)
	return s
}

// retirable says whether the previous colour of a virtual server is safe to delete.
func (s status) retirable(name string) bool {
	for _, server := range s.Servers {
		for _, c := range server.Status.Conditions {
			if server.Name == name && c.Type == "SafeToRetire" {
				return c.Status == "True"
			}
		}
	}
	return false
}
