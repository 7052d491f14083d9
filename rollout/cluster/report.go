package cluster

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

// Bounds of a NodeReport that have no name in v1alpha1.
const (
	maxVersion        = 128
	maxVirtualServers = 10000
	maxDraining       = 1024
)

// ReportOf is what a node tells the cluster of its status: sorted, and within the bounds that the API
// server holds a NodeReport to.
func ReportOf(status *sync.Status, version string) v1alpha1.NodeReportStatus {
	out := v1alpha1.NodeReportStatus{Version: clip(version, maxVersion), VirtualServers: make([]v1alpha1.NodeVirtualServer, 0, len(status.Servers))}
	var wrong []string
	if status.Error != "" {
		wrong = append(wrong, status.Error)
	}
	for _, e := range status.Errors {
		wrong = append(wrong, e.Source+": "+e.Message)
	}
	for _, s := range status.Servers {
		out.VirtualServers = append(out.VirtualServers, entryOf(s))
	}
	slices.SortStableFunc(out.VirtualServers, compareEntries)
	out.VirtualServers = slices.CompactFunc(out.VirtualServers, func(a, b v1alpha1.NodeVirtualServer) bool {
		return compareEntries(a, b) == 0
	})
	if n := len(out.VirtualServers); n > maxVirtualServers {
		wrong = append(wrong, fmt.Sprintf("only the first %d of %d VirtualServers are reported; a NodeReport holds no more", maxVirtualServers, n))
		out.VirtualServers = out.VirtualServers[:maxVirtualServers]
	}
	out.Error = clip(strings.Join(wrong, "; "), v1alpha1.MaxReportError)
	return out
}

func entryOf(s *sync.ServerStatus) v1alpha1.NodeVirtualServer {
	out := v1alpha1.NodeVirtualServer{
		Namespace: s.Namespace, Name: s.Name, Generation: s.Generation, Verified: s.Verified, Draining: drains(s.Draining),
		Decision: s.Decision, Staged: s.Staged, Weight: s.Weight, Steering: v1alpha1.Steering(s.Steering),
		SteeringReason: clip(s.SteeringReason, v1alpha1.MaxSteeringReason),
	}
	if p := s.Probe; p != nil {
		out.Probe = p.DeepCopy()
		out.Probe.Failures = out.Probe.Failures[:min(len(p.Failures), v1alpha1.MaxProbeFailures)]
		for i, f := range out.Probe.Failures {
			out.Probe.Failures[i] = clip(f, v1alpha1.MaxProbeFailure)
		}
	}
	for _, sign := range s.Signs[:min(len(s.Signs), v1alpha1.MaxSigns)] {
		out.Signs = append(out.Signs, v1alpha1.Sign{
			Colour: sign.Colour, Reason: clip(sign.Reason, v1alpha1.MaxSignReason), Message: clip(sign.Message, v1alpha1.MaxSignMessage),
		})
	}
	if s.Verified { // else Status.Active is what was decided, which the kernel may not hold
		out.Active = s.Status.Active
	}
	for i, v := range s.Virtual {
		if i == 0 || int32(v.Serving) < out.RealServers {
			out.RealServers = int32(v.Serving)
		}
	}
	// NotVerified has no say of its own: Verified tells it.
	for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionSwitched} {
		c := meta.FindStatusCondition(s.Status.Conditions, kind)
		if c != nil && c.Status == metav1.ConditionFalse && c.Reason != "NotVerified" {
			out.Reason, out.Message = reason(c.Reason), clip(c.Message, v1alpha1.MaxReportMessage)
			break
		}
	}
	return out
}

// drains sums up by colour. Several virtual servers may share a real server, which counts once. What has
// no colour cannot be named, and nobody waits for it.
func drains(all []sync.DrainStatus) []v1alpha1.ColourDrain {
	type real struct{ colour, address string }
	seen, sums := map[real]bool{}, map[string]*v1alpha1.ColourDrain{}
	var out []v1alpha1.ColourDrain
	for _, d := range all {
		if d.Colour == "" {
			continue
		}
		sum := sums[d.Colour]
		if sum == nil {
			sum = &v1alpha1.ColourDrain{Colour: d.Colour}
			sums[d.Colour] = sum
		}
		if r := (real{d.Colour, d.Real}); !seen[r] {
			seen[r] = true
			sum.RealServers++
		}
		sum.Connections += int64(d.Active) + int64(d.Inactive)
		if d.Deadline != nil {
			if at := metav1.NewTime(d.Deadline.UTC().Truncate(time.Second)); sum.Deadline == nil || sum.Deadline.Before(&at) {
				sum.Deadline = &at
			}
		}
	}
	for _, sum := range sums {
		out = append(out, *sum)
	}
	slices.SortFunc(out, func(a, b v1alpha1.ColourDrain) int { return strings.Compare(a.Colour, b.Colour) })
	return out[:min(len(out), maxDraining)]
}

var (
	reasonPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)
	notInReason   = regexp.MustCompile(`[^A-Za-z0-9_]+`)
)

// reason is s as the API server takes it.
func reason(s string) string {
	if !reasonPattern.MatchString(s) {
		s = strings.TrimLeft(notInReason.ReplaceAllString(s, ""), "0123456789_")
	}
	return cmp.Or(strings.TrimRight(s[:min(len(s), v1alpha1.MaxReportReason)], ",:"), "Unknown")
}

// clip cuts s to a number of characters, as the API server counts them.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}

func compareEntries(a, b v1alpha1.NodeVirtualServer) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// sameButCounts says whether two entries differ in nothing but how many real servers there are and how much is left to
// drain. These change all the time while pods come and go and something drains, and no status depends on them.
func sameButCounts(a, b *v1alpha1.NodeVirtualServer) bool {
	if !slices.EqualFunc(a.Draining, b.Draining, func(x, y v1alpha1.ColourDrain) bool { return x.Colour == y.Colour }) {
		return false
	}
	x, y := *a, *b
	x.Draining, y.Draining, x.RealServers, y.RealServers = nil, nil, 0, 0
	return equality.Semantic.DeepEqual(x, y)
}

// sameReportButCounts says the same of whole reports.
func sameReportButCounts(a, b *v1alpha1.NodeReportStatus) bool {
	return a.Version == b.Version && a.Error == b.Error &&
		slices.EqualFunc(a.VirtualServers, b.VirtualServers, func(x, y v1alpha1.NodeVirtualServer) bool { return sameButCounts(&x, &y) })
}
