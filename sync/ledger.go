package sync

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/internal/atomicfile"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/rollout"
)

// Ledger is what has to be known across restarts: which virtual servers in the kernel are ours,
// since when their real servers drain, where each rollout stands, and what sysctls held before us.
// It is written before the kernel is, so what a killed daemon had made is known to the next.
type Ledger struct {
	Owned    map[ipvs.Key]*Owned
	Rollouts map[types.NamespacedName]rollout.State
	// Sysctls are the values that we found and changed, for cleanup to put back.
	Sysctls map[string]string

	// Undone: kube-proxy was seen to delete address-keyed virtual servers of ours.
	Undone bool

	// dirty: it may differ from the file. Whoever changes it says so, since comparing costs as much as writing.
	dirty bool
}

// Owned is a virtual server that is ours.
type Owned struct {
	Owner types.NamespacedName
	// Lane is what a mark-keyed virtual server is made for, and Protocol whose packets its mark is for; see [lane].
	Lane     string
	Protocol ipvs.Protocol
	// Drain is kept here since it outlives the declaration of the virtual server.
	Drain    DrainPolicy
	Draining map[ipvs.RealKey]Draining
}

// Draining is a real server that gets no new connections any more.
type Draining struct {
	Colour string // "" when it was never known
	Since  time.Time
}

// ledgerFile is the name of the ledger in the state directory.
const ledgerFile = "state.json"

// NewLedger is a ledger of nothing.
func NewLedger() *Ledger {
	return &Ledger{
		Owned:    map[ipvs.Key]*Owned{},
		Rollouts: map[types.NamespacedName]rollout.State{},
		Sysctls:  map[string]string{},
		dirty:    true,
	}
}

// Owns says whether a virtual server is ours.
func (l *Ledger) Owns(k ipvs.Key) bool { return l.Owned[k] != nil }

// The file: sorted, so that equal ledgers are equal bytes.
type ledgerJSON struct {
	// Boot is the boot that the owned virtual servers belong to: none of them outlives it, and what
	// stands in their place after it is somebody else's.
	Boot     string                   `json:"boot"`
	Owned    []ownedJSON              `json:"owned"`
	Rollouts map[string]rollout.State `json:"rollouts"`
	Sysctls  map[string]string        `json:"sysctls,omitempty"`
	Undone   bool                     `json:"undoneByKubeProxy,omitempty"`
}

type ownedJSON struct {
	Key      keyJSON        `json:"key"`
	Owner    string         `json:"owner"`
	Lane     string         `json:"lane,omitempty"`
	Protocol ipvs.Protocol  `json:"protocol,omitempty"`
	Drain    DrainPolicy    `json:"drain"`
	Draining []drainingJSON `json:"draining,omitempty"`
}

type keyJSON = ipvs.Key

type drainingJSON struct {
	Real   ipvs.RealKey `json:"real"`
	Colour string       `json:"colour,omitempty"`
	Since  time.Time    `json:"since"`
}

// LoadLedger reads the ledger of a state directory. A directory without one gives an empty ledger;
// one that cannot be read is an error, for without it nobody knows what is ours.
func LoadLedger(stateDir string) (*Ledger, error) {
	path := filepath.Join(stateDir, ledgerFile)
	l := NewLedger()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	var j ledgerJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("reading the ledger %s: %w; if it cannot be mended, `ipvsadm -D` the virtual servers that were ours and remove it", path, err)
	}
	for name, s := range j.Rollouts {
		l.Rollouts[parseName(name)] = s
	}
	if boot, err := bootID(); err != nil {
		return nil, err
	} else if boot != j.Boot {
		return l, nil
	}
	l.Undone = j.Undone
	for _, o := range j.Owned {
		owned := &Owned{Owner: parseName(o.Owner), Lane: o.Lane, Protocol: o.Protocol, Drain: o.Drain, Draining: map[ipvs.RealKey]Draining{}}
		for _, d := range o.Draining {
			owned.Draining[d.Real] = Draining{Colour: d.Colour, Since: d.Since}
		}
		l.Owned[o.Key] = owned
	}
	for k, v := range j.Sysctls {
		l.Sysctls[k] = v
	}
	return l, nil
}

// ledgerStore writes a ledger to the state directory when it differs from what is there.
type ledgerStore struct {
	dir  string
	last [sha256.Size]byte // of the text that was written last
}

func (s *ledgerStore) save(l *Ledger) error {
	if !l.dirty {
		return nil
	}
	text, err := l.encode()
	if err != nil {
		return fmt.Errorf("writing the ledger: %w", err)
	}
	if digest := sha256.Sum256(text); digest != s.last {
		if err := atomicfile.Write(filepath.Join(s.dir, ledgerFile), text, 0o644); err != nil {
			return fmt.Errorf("writing the ledger: %w", err)
		}
		s.last = digest
	}
	l.dirty = false
	return nil
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot's id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

func parseName(s string) types.NamespacedName {
	namespace, name, _ := strings.Cut(s, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func compareKeys(a, b ipvs.Key) int {
	return cmp.Or(
		cmp.Compare(a.Mark, b.Mark),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol),
	)
}

func compareReals(a, b ipvs.RealKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}
