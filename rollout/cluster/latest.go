package cluster

import (
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// latest is the newest version of the node's report that is known to be at the API server. Watches
// lag behind answers to our own writes, so an older one may come later.
type latest struct {
	mu     sync.Mutex
	report *v1alpha1.NodeReport
}

func (l *latest) get() *v1alpha1.NodeReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report
}

func (l *latest) see(r *v1alpha1.NodeReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report == nil || !older(r.ResourceVersion, l.report.ResourceVersion) {
		l.report = r
	}
}

// gone takes note that version is the last there was.
func (l *latest) gone(version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report != nil && !older(version, l.report.ResourceVersion) {
		l.report = nil
	}
}

func (l *latest) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report = nil
}

// older is false where the versions cannot be compared: the one that came last is taken then.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
