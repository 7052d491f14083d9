package sync

import (
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
)

func TestUndoing(t *testing.T) {
	key := virtual(1, ipvs.TCP)
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	second := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }
	var u undoing
	u.missed(key, second(0))
	u.missed(key, second(30))
	require.Empty(t, u.is, "twice may be an accident")
	u.missed(key, second(60))
	require.True(t, u.is[key], "each 30 s, as kube-proxy at rest")
	u.forget(second(159))
	require.False(t, u.due(second(159)))
	require.True(t, u.is[key])
	require.True(t, u.due(second(160)))
	u.forget(second(160))
	require.Empty(t, u.is, "left alone")
	require.Empty(t, u.seen)
	for n := range 10 {
		u.missed(key, second(200+60*n))
	}
	require.Empty(t, u.is, "once a minute is not often")
}

// wipe deletes our virtual servers, as kube-proxy in ipvs mode does.
func (b *bench) wipe(t *testing.T) {
	t.Helper()
	var ops []ipvs.Op
	for _, s := range tableOf(t, b.kernel) {
		ops = append(ops, ipvs.Op{Verb: ipvs.DelService, Service: s.Service})
	}
	require.NoError(t, b.kernel.Apply(b.ctx, ops))
}

func (b *bench) accepted(t *testing.T) metav1.Condition {
	t.Helper()
	status, err := LoadStatus(b.StateDir)
	require.NoError(t, err)
	c := meta.FindStatusCondition(status.Server(owner).Status.Conditions, v1alpha1.ConditionAccepted)
	require.NotNil(t, c)
	return *c
}

func TestWhoUndoesOurWorkIsTold(t *testing.T) {
	for name, kubeProxy := range map[string]bool{"kube-proxy": true, "somebody": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, t.TempDir())
			log, hook := test.NewNullLogger()
			b.Log = log
			warnings := func() (n int) {
				for _, e := range hook.AllEntries() {
					if e.Level == logrus.WarnLevel && strings.Contains(e.Message, "another program deletes") {
						n++
					}
				}
				return n
			}
			b.node.SetKubeProxy(kubeProxy)
			b.Config.Steering = v1alpha1.SteeringAddress // or it would be steered past its reach
			b.declare(t, server("v1", map[string]int{"v1": 2}))
			right := b.serving(t)
			for range 2 {
				b.wipe(t)
				b.pass(b.ctx, false)
				require.Equal(t, right, b.serving(t), "repaired at once")
			}
			require.Equal(t, metav1.ConditionTrue, b.accepted(t).Status, "twice may be an accident")
			var told metav1.Condition
			for range 4 {
				b.wipe(t)
				b.pass(b.ctx, false)
				require.Equal(t, right, b.serving(t))
				told = b.accepted(t)
				require.Equal(t, metav1.ConditionFalse, told.Status)
				require.Equal(t, reasonUndone, told.Reason)
			}
			require.Equal(t, 1, warnings(), "once, not each time")
			require.Contains(t, told.Message, "TCP 192.0.2.10:30080")
			if kubeProxy {
				require.Contains(t, told.Message, "add 10.96.0.10/32,192.0.2.10/32 to its ipvs.excludeCIDRs")
			} else {
				require.Contains(t, told.Message, "It is not kube-proxy in ipvs mode")
			}

			// It goes away by itself.
			for key, times := range b.undoing.seen {
				for i := range times {
					b.undoing.seen[key][i] = times[i].Add(-undoneWithin)
				}
			}
			changed, err := b.node.Changed()
			require.NoError(t, err)
			b.NodeChanged = changed
			require.True(t, b.atRest(), "or the pass is one that it would not be")
			b.pass(b.ctx, false)
			require.Equal(t, metav1.ConditionTrue, b.accepted(t).Status)
			require.Equal(t, 1, warnings())
			require.Contains(t, hook.LastEntry().Message, "no longer deleted")
		})
	}
}

// What we delete ourselves, a switch and a flush at the start of another program are nobody's undoing.
func TestOurOwnDoingIsNotUndone(t *testing.T) {
	b := newBench(t, t.TempDir())
	for range 5 {
		b.declare(t, server("v1", map[string]int{"v1": 2}))
		b.declare(t)
		b.declare(t)
		require.Empty(t, tableOf(t, b.kernel))
	}
	require.Empty(t, b.undoing.seen)
}

// unlabelled is the server as it is when its Service has lost the label.
func unlabelled(s endpoints.Server) endpoints.Server {
	s.Refused = &endpoints.Refusal{Reason: endpoints.ReasonServiceNotLabelled, Message: "no label"}
	s.Ports = nil
	return s
}
