package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The API server goes in the middle of a switch and comes back: until then each node serves one colour, and then the
// switch ends as it should.
func TestClusterOutageInSwitch(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2), deployment("v3", 2), virtualServer)
	st := s.tell()
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	s.counted(3)
	runs, held := s.loads(12), s.holds(2)

	s.part("Staging", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v2","switch":{"paused":true}}`)
		st.waits("v2", 3)
		s.StopAPIServer()
		time.Sleep(5 * time.Second)
		s.only(runs, began, "v1")
		s.StartAPIServer()
		s.declare(`{"switch":{"paused":false}}`)
		back := time.Now()
		st.succeeded("v2")
		s.t.Logf("switched %v after the API server was back", time.Since(back).Round(100*time.Millisecond))
		s.oneTurn(runs, began, time.Now(), "v1", "v2")
		s.servesEverywhere("version=v2")
	})
	s.part("right after the commit", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v3","switch":{"paused":true}}`)
		st.waits("v3", 3)
		// One node does not hear of the commit before the API server goes.
		deaf := s.Nodes[0]
		if s.leader() == deaf {
			deaf = s.Nodes[1]
		}
		connections, err := deaf.Run("ss", "-Htn", "dst", hostFromGuest)
		require.NoError(s.t, err)
		_, err = deaf.Run("nft", fmt.Sprintf("table ip fault { chain in { type filter hook prerouting priority -400; ip saddr %s drop; }; }", hostFromGuest))
		require.NoError(s.t, err)
		s.declare(`{"switch":{"paused":false}}`)
		s.Eventually(Patience, "the two others serve v3", func() error {
			var errs []error
			for _, n := range s.Nodes {
				if n != deaf {
					errs = append(errs, s.serves(n, n.nodePort(), "version=v3"))
				}
			}
			return errors.Join(errs...)
		})
		s.StopAPIServer()
		stopped := time.Now()
		time.Sleep(5 * time.Second)
		s.someSince(runs, stopped)
		for n, run := range runs {
			want := "v3"
			if n == deaf {
				want = "v2"
			}
			report := run.Report().Since(stopped)
			require.Empty(s.t, report.Lost().Lines(), "on %s", n.Name())
			require.Equal(s.t, []string{want}, keys(report.ByColour()), "on %s", n.Name())
		}
		back := time.Now()
		s.StartAPIServer()
		// The connections that it had stay without a word, as when the path or the server's host died: not even their end is told.
		_, err = deaf.Run("nft", fmt.Sprintf("flush chain ip fault in; add rule ip fault in ip saddr %s tcp dport { %s } drop", hostFromGuest, localPorts(connections)))
		require.NoError(s.t, err)
		m := st.succeeded("v3")
		s.t.Logf("the last node switched %v after the API server began to start: %v", time.Since(back).Round(100*time.Millisecond), m)
		s.servesEverywhere("version=v3")
		s.oneTurn(runs, began, time.Now(), "v2", "v3")
	})
	s.counted(3)
	s.intact(held)
	s.noneLost(runs)
	st.forward("v1", "v2", "v3")
}

// localPorts are those of the connections that ss lists, as nft takes them.
func localPorts(ss string) string {
	var ports []string
	for line := range strings.Lines(ss) {
		if f := strings.Fields(line); len(f) > 3 { // state, two queues, local, peer
			ports = append(ports, f[3][strings.LastIndex(f[3], ":")+1:])
		}
	}
	return strings.Join(ports, ", ")
}

// contains is an error when the text does not contain the other.
func contains(text, what string) error {
	if !strings.Contains(text, what) {
		return fmt.Errorf("no %q in:\n%s", what, tail(text, 20))
	}
	return nil
}
