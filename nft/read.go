package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// State is what a reading found beside the Ruleset.
type State struct {
	// Generation is that of the namespace's nftables at which all of it was read (see [Conn.Generation]).
	Generation uint32
	// Present is whether there is a table of our name at all.
	Present bool
	// Intact is whether the table, its sets, its chains and their rules are exactly those that [Conn.Apply] makes;
	// then the Ruleset is all there is to it.
	Intact bool
	// Why says the first thing that is not as it should be; "" when Intact.
	Why string
}

// Read is the table as the kernel has it, all of one generation. Where it is not intact the Ruleset
// has what could be understood of it.
func (c *Conn) Read() (Ruleset, State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A dump can be cut in two by another program's transaction; the generation tells.
	for range 20 {
		before, err := c.generation()
		if err != nil {
			return Ruleset{}, State{}, err
		}
		rules, state, err := c.read()
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR) {
			return Ruleset{}, State{}, fmt.Errorf("reading table inet %s: %w", Table, err)
		}
		after, err2 := c.generation()
		if err2 != nil {
			return Ruleset{}, State{}, err2
		}
		if err == nil && before == after {
			state.Generation = after
			return rules, state, nil
		}
	}
	return Ruleset{}, State{}, fmt.Errorf("reading table inet %s: %w", Table, errBusy)
}

// read is one attempt. It goes on past what is wrong, so that the Ruleset is as full as can be.
func (c *Conn) read() (rules Ruleset, state State, err error) {
	broken := func(format string, args ...any) {
		if state.Why == "" {
			state.Why = fmt.Sprintf(format, args...)
		}
	}
	table, err := c.dump(unix.NFT_MSG_GETTABLE, 0, str(unix.NFTA_TABLE_NAME, Table))
	if errors.Is(err, unix.ENOENT) {
		return Ruleset{}, State{Why: "there is no table inet " + Table}, nil
	} else if err != nil {
		return rules, state, err
	}
	state.Present = true
	if err := checkTable(table, broken); err != nil {
		return rules, state, err
	}
	anonymous, err := c.readSets(&rules, broken)
	if err != nil {
		return rules, state, err
	}
	found, err := c.readChains(broken)
	if err != nil {
		return rules, state, err
	}
	if err := c.readRules(&rules, found, anonymous, broken); err != nil {
		return rules, state, err
	}
	state.Intact = state.Why == ""
	return rules, state, nil
}

type complain func(format string, args ...any)

func checkTable(answer []netlink.Message, broken complain) error {
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_TABLE_FLAGS {
				if f := ad.Uint32(); f != 0 {
					broken("the table has flags %#x: dormant or another program's own", f)
				}
			}
		}
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

// readSets reads our sets into rules. What it gives back are the anonymous ones: by their name, the contents as
// [Rule.exprs] calls them; "" for contents that none of ours has.
func (c *Conn) readSets(rules *Ruleset, broken complain) (map[string]string, error) {
	answer, err := c.dump(unix.NFT_MSG_GETSET, netlink.Dump, str(unix.NFTA_SET_TABLE, Table))
	if err != nil {
		return nil, err
	}
	found, anonymous := make(map[string]bool), make(map[string]string)
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return nil, err
		}
		var name string
		var flags, kind, length, data uint32
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_NAME:
				name = ad.String()
			case unix.NFTA_SET_FLAGS:
				flags = ad.Uint32()
			case unix.NFTA_SET_KEY_TYPE:
				kind = ad.Uint32()
			case unix.NFTA_SET_KEY_LEN:
				length = ad.Uint32()
			case unix.NFTA_SET_DATA_LEN:
				data = ad.Uint32()
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
		s, ours := sets[name]
		switch {
		case flags&unix.NFT_SET_ANONYMOUS != 0:
			anonymous[name] = ""
			if flags == unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT && length == nftables.TypeInetProto.Bytes {
				anonymous[name] = protocols // unless its elements say otherwise
			}
		case !ours:
			broken("set %s is not ours", name)
		case flags != 0 || kind != s.key.GetNFTMagic() || length != s.key.Bytes || data != 0:
			broken("set %s is of another type", name)
		default:
			found[name] = true
		}
	}
	for _, name := range setOrder {
		if !found[name] {
			broken("set %s is missing", name)
			continue
		}
		keys, err := c.readElements(name)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			e, err := sets[name].decode(key)
			if err != nil {
				broken("%v", err)
				continue
			}
			rules.insert(name, e)
		}
	}
	for name := range anonymous {
		keys, err := c.readElements(name)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(keys, bytes.Compare)
		if !slices.EqualFunc(keys, protocolKeys, bytes.Equal) {
			anonymous[name] = ""
		}
	}
	return anonymous, nil
}

// readElements are the keys of a set.
func (c *Conn) readElements(set string) ([][]byte, error) {
	answer, err := c.dump(unix.NFT_MSG_GETSETELEM, netlink.Dump,
		str(unix.NFTA_SET_ELEM_LIST_TABLE, Table), str(unix.NFTA_SET_ELEM_LIST_SET, set))
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return nil, err
		}
		// A list of elements, each of which has a key, which is a value.
		walk(ad, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeDecoder) {
			walk(list, unix.NFTA_LIST_ELEM, func(element *netlink.AttributeDecoder) {
				walk(element, unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeDecoder) {
					for key.Next() {
						keys = append(keys, key.Bytes())
					}
				})
			})
		})
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// walk calls f for what each attribute of the kind holds.
func walk(ad *netlink.AttributeDecoder, kind uint16, f func(*netlink.AttributeDecoder)) {
	for ad.Next() {
		if ad.Type() == kind {
			ad.Nested(func(inner *netlink.AttributeDecoder) error {
				f(inner)
				return nil
			})
		}
	}
}

// readChains looks at the chains of all inet tables: the kernel lists no table's alone. It gives back which of ours are
// there and as they should be.
func (c *Conn) readChains(broken complain) (map[string]bool, error) {
	answer, err := c.dump(unix.NFT_MSG_GETCHAIN, netlink.Dump)
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return nil, err
		}
		var table, name, kind string
		var policy, flags, hook, prio uint32
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				policy = ad.Uint32()
			case nftaChainFlags:
				flags = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						switch nad.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							hook = nad.Uint32()
						case unix.NFTA_HOOK_PRIORITY:
							prio = nad.Uint32()
						}
					}
					return nil
				})
			}
		}
		want, ours := chains[name]
		switch {
		case ad.Err() != nil:
			return nil, ad.Err()
		case table != Table:
		case !ours:
			broken("chain %s is not ours", name)
		// NFT_CHAIN_BASE is 1; the kernel sets it itself on a chain with a hook.
		case kind != want.kind || policy != nfAccept || flags&^1 != 0 || hook != want.hook || int32(prio) != want.priority:
			broken("chain %s has another type, hook, priority or policy", name)
		default:
			found[name] = true
		}
	}
	return found, nil
}

func (c *Conn) readRules(rules *Ruleset, chains map[string]bool, anonymous map[string]string, broken complain) error {
	found := make(map[string][][]expr.Any)
	for _, name := range chainOrder {
		if !chains[name] {
			continue
		}
		var err error
		if found[name], err = c.readChainRules(name, anonymous, broken); err != nil {
			return err
		}
	}
	// First what the rules say of the cluster's networks and of the steering, then whether they say it as ours do.
	for _, exprs := range found[postrouting] {
		rules.ClusterCIDRs = append(rules.ClusterCIDRs, cidrsOf(exprs)...)
	}
	rules.ClusterCIDRs = canonicalCIDRs(rules.ClusterCIDRs)
	for i, exprs := range found[steerIn] {
		s, ok := steerOf(exprs)
		if !ok {
			broken("rule %d of chain %s is not ours", i+1, steerIn)
			continue
		}
		rules.Steering = append(rules.Steering, s)
	}
	for _, name := range chainOrder {
		have, want := found[name], rules.chain(name)
		switch {
		case !chains[name] && want != nil:
			broken("chain %s is missing", name)
		case chains[name] && want == nil:
			broken("chain %s is there with nothing to steer", name)
		case len(have) != len(want):
			broken("chain %s has %d rules, want %d", name, len(have), len(want))
		}
		for i := range min(len(have), len(want)) {
			if !reflect.DeepEqual(have[i], want[i].exprs()) {
				broken("rule %d of chain %s is not ours", i+1, name)
			}
		}
	}
	return nil
}

// readChainRules are the expressions of each of a chain's rules; nil for a rule with some that none of ours has.
func (c *Conn) readChainRules(name string, anonymous map[string]string, broken complain) ([][]expr.Any, error) {
	answer, err := c.dump(unix.NFT_MSG_GETRULE, netlink.Dump,
		str(unix.NFTA_RULE_TABLE, Table), str(unix.NFTA_RULE_CHAIN, name))
	if err != nil {
		return nil, err
	}
	var found [][]expr.Any
	for _, m := range answer {
		ad, err := decoder(m)
		if err != nil {
			return nil, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_RULE_EXPRESSIONS {
				exprs, err := parseExprs(ad.Bytes(), anonymous)
				if err != nil {
					broken("rule %d of chain %s: %v", len(found)+1, name, err)
				}
				found = append(found, exprs)
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// parseExprs reads a rule's expressions. One of a kind that no rule of ours has is an error.
func parseExprs(body []byte, anonymous map[string]string) ([]expr.Any, error) {
	ad, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return nil, err
	}
	var out []expr.Any
	for ad.Next() {
		ad.Nested(func(nad *netlink.AttributeDecoder) error {
			nad.ByteOrder = binary.BigEndian
			var name string
			var data []byte
			for nad.Next() {
				switch nad.Type() {
				case unix.NFTA_EXPR_NAME:
					name = nad.String()
				case unix.NFTA_EXPR_DATA:
					data = nad.Bytes()
				}
			}
			var e expr.Any
			switch name {
			case "meta":
				e = &expr.Meta{}
			case "cmp":
				e = &expr.Cmp{}
			case "payload":
				e = &expr.Payload{}
			case "bitwise":
				e = &expr.Bitwise{}
			case "ct":
				ct, err := parseCt(data)
				out = append(out, ct)
				return err
			case "lookup":
				e = &expr.Lookup{}
			case "fib":
				e = &expr.Fib{}
			case "masq":
				e = &expr.Masq{}
			case "immediate":
				immediate, err := parseImmediate(data)
				out = append(out, immediate)
				return err
			default:
				return fmt.Errorf("no rule of ours has the expression %q", name)
			}
			out = append(out, e)
			if err := expr.Unmarshal(unix.NFPROTO_INET, data, e); err != nil {
				return err
			}
			if l, ok := e.(*expr.Lookup); ok {
				if contents, ok := anonymous[l.SetName]; ok {
					l.SetName = contents
				}
			}
			return nil
		})
	}
	if err := ad.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// parseCt reads a ct expression. google/nftables takes its direction, one byte, for four.
func parseCt(data []byte) (*expr.Ct, error) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	ct := &expr.Ct{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CT_KEY:
			ct.Key = expr.CtKey(ad.Uint32())
		case unix.NFTA_CT_DREG:
			ct.Register = ad.Uint32()
		case unix.NFTA_CT_SREG:
			ct.Register, ct.SourceRegister = ad.Uint32(), true
		case unix.NFTA_CT_DIRECTION:
			ct.Direction = uint32(ad.Uint8())
		}
	}
	return ct, ad.Err()
}

// parseImmediate reads a value for a register, or a verdict.
func parseImmediate(data []byte) (expr.Any, error) {
	value := &expr.Immediate{}
	if err := expr.Unmarshal(unix.NFPROTO_INET, data, value); err != nil || value.Register != unix.NFT_REG_VERDICT {
		return value, err
	}
	verdict := &expr.Verdict{}
	return verdict, expr.Unmarshal(unix.NFPROTO_INET, data, verdict)
}
