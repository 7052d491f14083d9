package nft

import (
	"fmt"
	"slices"
)

// Verb is what an Op does.
type Verb uint8

// The verbs, each one message to nf_tables. Adding what is there is no error; deleting what is not there is.
const (
	AddTable Verb = iota
	DelTable
	AddSet
	AddChain
	FlushChain // its rules go
	DelChain   // one that has no rules
	AddRule
	AddElement
	DelElement
)

// Op is one change. Ops mean something only together: [Conn.Commit] makes all of them at once.
type Op struct {
	Verb    Verb
	Set     string   // AddSet, AddElement, DelElement
	Chain   string   // AddChain, FlushChain, DelChain, AddRule
	Rule    Rule     // AddRule
	Element Endpoint // AddElement, DelElement; of a hairpin set only Addr
}

// String is the nft command that the op equals.
func (o Op) String() string {
	switch o.Verb {
	case AddTable:
		return fmt.Sprintf(`nft add table inet %s '{ comment "%s"; }'`, Table, tableComment)
	case DelTable:
		return "nft delete table inet " + Table
	case AddSet:
		s := sets[o.Set]
		return fmt.Sprintf(`nft add set inet %s %s '{ type %s; comment "%s"; }'`, Table, o.Set, s.typeText(), s.comment)
	case AddChain:
		c := chains[o.Chain]
		return fmt.Sprintf(`nft add chain inet %s %s '{ type %s hook %s priority %d; policy accept; comment "%s"; }'`,
			Table, o.Chain, c.kind, c.hookName, c.priority, c.comment)
	case FlushChain:
		return fmt.Sprintf("nft flush chain inet %s %s", Table, o.Chain)
	case DelChain:
		return fmt.Sprintf("nft delete chain inet %s %s", Table, o.Chain)
	case AddRule:
		return fmt.Sprintf(`nft add rule inet %s %s '%s comment "%s"'`, Table, o.Chain, o.Rule, o.Rule.comment())
	}
	verb := "add"
	if o.Verb == DelElement {
		verb = "delete"
	}
	return fmt.Sprintf("nft %s element inet %s %s '{ %s }'", verb, Table, o.Set, sets[o.Set].text(o.Element))
}

// Diff is what turns have into want, in order, to be committed as one transaction. Where the table is
// not intact (see [State]) that is the whole table, made anew; else elements, and all of the rules of those chains
// whose rules have to differ. It is empty when there is nothing to do. Both rulesets must be valid.
//
// Making the table anew does not steer every packet meanwhile: its chains are others than the ones before, and a packet
// that is between the two of a hook at the very moment is met by neither. A change of rules has no such moment.
func Diff(want, have Ruleset, intact bool) []Op {
	if !intact {
		return create(want)
	}
	ops := elementOps(AddElement, want.without(have))
	if !slices.Equal(canonicalCIDRs(want.ClusterCIDRs), canonicalCIDRs(have.ClusterCIDRs)) {
		ops = append(ops, Op{Verb: FlushChain, Chain: postrouting})
		ops = append(ops, ruleOps(postrouting, want.rules())...)
	}
	ops = append(ops, steeringOps(want, have)...)
	return append(ops, elementOps(DelElement, have.without(want))...)
}

func ruleOps(chain string, rules []Rule) []Op {
	ops := make([]Op, len(rules))
	for i, r := range rules {
		ops[i] = Op{Verb: AddRule, Chain: chain, Rule: r}
	}
	return ops
}

// create makes the table anew, whatever is there. Deleting a table that is not there is an error, so
// it is added first, as `nft -f` scripts do; as one transaction none of it is ever seen half made.
func create(want Ruleset) []Op {
	ops := []Op{{Verb: AddTable}, {Verb: DelTable}, {Verb: AddTable}}
	for _, name := range setOrder {
		ops = append(ops, Op{Verb: AddSet, Set: name})
	}
	ops = append(ops, Op{Verb: AddChain, Chain: postrouting})
	ops = append(ops, ruleOps(postrouting, want.rules())...)
	ops = append(ops, steeringOps(want, Ruleset{})...)
	return append(ops, elementOps(AddElement, want)...)
}

// elementOps are an op for each element of a ruleset, sorted.
func elementOps(verb Verb, of Ruleset) []Op {
	var ops []Op
	elements := of.elements()
	for _, name := range setOrder {
		for _, e := range elements[name] {
			ops = append(ops, Op{Verb: verb, Set: name, Element: e})
		}
	}
	return ops
}
