package cluster

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/sync"
)

// countsAlike says whether a status would say the same of two servers. A snapshot is made for each
// change of any endpoint, and shares what did not change with the one before.
func countsAlike(a, b *endpoints.Server) bool {
	if (a.Refused == nil) != (b.Refused == nil) {
		return false
	}
	if a.Refused != nil {
		return *a.Refused == *b.Refused && equality.Semantic.DeepEqual(a.Spec, b.Spec)
	}
	if len(a.Ports) == len(b.Ports) && (len(a.Ports) == 0 || &a.Ports[0] == &b.Ports[0]) {
		return true
	}
	return slices.Equal(sync.Colours(a), sync.Colours(b)) && maps.Equal(sync.Counts(a), sync.Counts(b))
}
