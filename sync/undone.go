package sync

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/ipvs"
)

// A virtual server of ours that was deleted undoneOften times within undoneWithin is being undone by a program
// that will do so again; it is so until it has been left alone for as long. kube-proxy in ipvs mode
// syncs every 30 s when nothing changes.
const (
	undoneOften  = 3
	undoneWithin = 100 * time.Second
)

// reasonUndone is the reason of condition Accepted while virtual servers are being undone.
const reasonUndone = "UndoneByOther"

// undoing remembers which virtual servers of ours others delete. Its zero value has seen nothing. It is
// pure but for what it remembers.
type undoing struct {
	seen map[ipvs.Key][]time.Time // the last undoneOften times, in order
	is   map[ipvs.Key]bool        // being undone
}

// missed notes that a virtual server was gone without our doing.
func (u *undoing) missed(key ipvs.Key, now time.Time) {
	if u.seen == nil {
		u.seen, u.is = map[ipvs.Key][]time.Time{}, map[ipvs.Key]bool{}
	}
	times := append(u.seen[key], now)
	if len(times) > undoneOften {
		times = slices.Delete(times, 0, len(times)-undoneOften)
	}
	u.seen[key] = times
	if len(times) == undoneOften && now.Sub(times[0]) < undoneWithin {
		u.is[key] = true
	}
}

// forget drops what was left alone long enough.
func (u *undoing) forget(now time.Time) {
	for key, times := range u.seen {
		if now.Sub(times[len(times)-1]) >= undoneWithin {
			delete(u.seen, key)
			delete(u.is, key)
		}
	}
}

// due says whether forget would drop something.
func (u *undoing) due(now time.Time) bool {
	for _, times := range u.seen {
		if now.Sub(times[len(times)-1]) >= undoneWithin {
			return true
		}
	}
	return false
}

// trouble says, by owner, what is being undone, by whom in all likelihood, and the mend. A text
// stays the same as long as the same is undone.
func (u *undoing) trouble(t Target, kubeProxy bool) map[types.NamespacedName]string {
	undone := map[types.NamespacedName][]string{}
	for key := range u.is {
		if v := t.Servers[key]; v != nil {
			undone[v.Owner] = append(undone[v.Owner], key.String())
		}
	}
	if len(undone) == 0 {
		return nil
	}
	addresses := map[types.NamespacedName][]netip.Addr{}
	for key, v := range t.Servers {
		if undone[v.Owner] != nil && key.Addr.IsValid() {
			addresses[v.Owner] = append(addresses[v.Owner], key.Addr)
		}
	}
	out := map[types.NamespacedName]string{}
	for owner, keys := range undone {
		slices.Sort(keys)
		text := fmt.Sprintf("another program deletes %s again and again; pointsman makes them again at once, but connections are refused and cut each time. ", strings.Join(keys, ", "))
		if kubeProxy {
			all := addresses[owner]
			slices.SortFunc(all, netip.Addr.Compare)
			var excluded []string
			for _, a := range slices.Compact(all) {
				excluded = append(excluded, netip.PrefixFrom(a, a.BitLen()).String())
			}
			text += fmt.Sprintf("It is kube-proxy in ipvs mode in all likelihood (its device kube-ipvs0 is here), which at each sync deletes what it did not make: add %s to its ipvs.excludeCIDRs (flag --ipvs-exclude-cidrs) and restart it",
				strings.Join(excluded, ","))
		} else {
			text += "It is not kube-proxy in ipvs mode, whose device kube-ipvs0 is not here; kube-router, keepalived or a job that runs `ipvsadm -C`? `pointsman preflight` names those that it knows"
		}
		out[owner] = text
	}
	return out
}

// noteUndone compares what was last read with what is there now, and logs when it begins and ends that virtual
// servers are being undone.
func (r *Reconciler) noteUndone(had []ipvs.Key, kubeProxy bool, now time.Time) {
	for _, key := range had {
		if r.table.find(key) == nil {
			r.undoing.missed(key, now)
			if key.Mark == 0 && kubeProxy && !r.ledger.Undone {
				r.ledger.Undone, r.ledger.dirty = true, true
				r.Log.Warnf("%s was deleted, by kube-proxy in ipvs mode in all likelihood (its device kube-ipvs0 is here); what has steering Auto is keyed by firewall mark from now on, which kube-proxy leaves alone (steering: Address goes back)", key)
			}
		}
	}
	r.undoing.forget(now)
	before := r.undone
	r.undone = r.undoing.trouble(r.target, kubeProxy)
	for owner, text := range r.undone {
		if before[owner] == "" {
			r.Log.WithField("virtualserver", owner.String()).Warn(text)
		}
	}
	for owner := range before {
		if r.undone[owner] == "" {
			r.Log.WithField("virtualserver", owner.String()).Info("its virtual servers are no longer deleted by another program")
		}
	}
}

// ours are the virtual servers, of those of what, that are ours, wanted, and were there when last read.
func (r *Reconciler) ours(what *touched) (keys []ipvs.Key) {
	if r.table.at == nil {
		return nil
	}
	r.table.each(what, func(s *ipvs.ServiceInfo) {
		if r.ledger.Owns(s.Key) && r.want(s.Key) != nil {
			keys = append(keys, s.Key)
		}
	})
	return keys
}
