package cluster

import "sync"

// names has each string once in memory, however many objects have it: namespaces, nodes, labels. What unique.Make
// gives is the same only until garbage is collected.
type names struct {
	mu  sync.Mutex
	all map[string]string
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
