package cluster

import (
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// latest is the newest version of the node's report that is known to be at the API server. Watches
// lag behind answers to our own writes, so an older one may come later.
type latest struct {
	mu      sync.Mutex
	version string               // "": there is none
	report  *v1alpha1.NodeReport // as last read or written, which may be an older version; nil: there was none
}

// get gives the report as far as it is known. One that is stale was written by somebody else since, and is to be read.
func (l *latest) get() (report *v1alpha1.NodeReport, stale bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report, l.version != "" && (l.report == nil || l.report.ResourceVersion != l.version)
}

// see takes what was read or written.
func (l *latest) see(r *v1alpha1.NodeReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.version == "" || !older(r.ResourceVersion, l.version) {
		l.report, l.version = r, r.ResourceVersion
	}
}

// told takes note of a version that the watch has seen.
func (l *latest) told(version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.version == "" || !older(version, l.version) {
		l.version = version
	}
}

// gone takes note that version is the last there was.
func (l *latest) gone(version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.version != "" && !older(version, l.version) {
		l.report, l.version = nil, ""
	}
}

func (l *latest) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report, l.version = nil, ""
}

// older is false where the versions cannot be compared: the one that came last is taken then.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
