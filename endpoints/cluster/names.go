package cluster

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"
)

// names has each string once in memory, however many objects have it: namespaces, nodes, labels. What unique.Make
// gives is the same only until garbage is collected.
type names struct {
	mu   sync.Mutex
	all  map[string]string
	sets map[string]map[string]string // of labels, by what set makes of them
	text []byte                       // that set works in
}

const maxNames = 1 << 14

// of is the string of some bytes. It makes a new one only of what it does not know.
func (n *names) of(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, ok := n.all[string(b)]; ok {
		return s
	}
	return n.add(string(b))
}

func (n *names) ofString(s string) string {
	if s == "" {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.all[s]; ok {
		return known
	}
	return n.add(s)
}

func (n *names) add(s string) string {
	if n.all == nil || len(n.all) >= maxNames {
		n.all = map[string]string{} // those of objects that are long gone are kept by nobody
	}
	n.all[s] = s
	return s
}

// label is one of a set of labels.
type label struct{ key, value string }

// set is a set of labels, of which many objects have the same: what it gives is shared, and not to be changed. It sorts labels.
func (n *names) set(labels []label) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.key, b.key) })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = n.text[:0]
	for _, l := range labels {
		for _, s := range []string{l.key, l.value} {
			n.text = append(binary.AppendUvarint(n.text, uint64(len(s))), s...)
		}
	}
	if known, ok := n.sets[string(n.text)]; ok {
		return known
	}
	if n.sets == nil || len(n.sets) >= maxNames {
		n.sets = map[string]map[string]string{}
	}
	out := make(map[string]string, len(labels))
	for _, l := range labels {
		out[l.key] = l.value
	}
	n.sets[string(n.text)] = out
	return out
}
