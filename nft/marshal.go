package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix lacks of linux/netfilter/nf_tables.h.
const (
	nftaTableUserdata = 6
	nftaChainFlags    = 10
	nftaChainUserdata = 12
	nfAccept          = 1 // NF_ACCEPT of linux/netfilter.h
)

// maxList is how many bytes of elements go into one message: the length of an attribute is a uint16.
// A transaction has as many messages as it takes, so this limits nothing but each of them.
const maxList = 48 << 10

// anonymous is the name by which a transaction asks for an anonymous set; the kernel puts a number into it.
const anonymous = "__set%d"

// marshal turns ops into messages. Elements of one set that follow one another share as few as hold them.
func marshal(ops []Op) ([]netlink.Message, error) {
	var out []netlink.Message
	add := func(command int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) error {
		m, err := message(command, flags, attrs)
		out = append(out, m)
		return err
	}
	for i := 0; i < len(ops); {
		n := 1
		var err error
		switch o := ops[i]; o.Verb {
		case AddTable:
			err = add(unix.NFT_MSG_NEWTABLE, netlink.Create,
				str(unix.NFTA_TABLE_NAME, Table), be32(unix.NFTA_TABLE_FLAGS, 0), comment(nftaTableUserdata, tableComment))
		case DelTable:
			err = add(unix.NFT_MSG_DELTABLE, 0, str(unix.NFTA_TABLE_NAME, Table))
		case AddSet:
			err = add(unix.NFT_MSG_NEWSET, netlink.Create, sets[o.Set].attributes()...)
		case AddChain:
			c := chains[o.Chain]
			err = add(unix.NFT_MSG_NEWCHAIN, netlink.Create,
				str(unix.NFTA_CHAIN_TABLE, Table), str(unix.NFTA_CHAIN_NAME, o.Chain),
				nested(unix.NFTA_CHAIN_HOOK,
					be32(unix.NFTA_HOOK_HOOKNUM, c.hook), be32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))),
				be32(unix.NFTA_CHAIN_POLICY, nfAccept), str(unix.NFTA_CHAIN_TYPE, c.kind),
				comment(nftaChainUserdata, c.comment))
		case FlushChain:
			// A rule's deletion without a handle is that of all.
			err = add(unix.NFT_MSG_DELRULE, 0, str(unix.NFTA_RULE_TABLE, Table), str(unix.NFTA_RULE_CHAIN, o.Chain))
		case DelChain:
			err = add(unix.NFT_MSG_DELCHAIN, 0, str(unix.NFTA_CHAIN_TABLE, Table), str(unix.NFTA_CHAIN_NAME, o.Chain))
		case AddRule:
			// Numbers name sets within the transaction only; those of sets with a name come first.
			err = o.Rule.marshal(o.Chain, uint32(len(setOrder)+1+i), add)
		case AddElement, DelElement:
			n = run(ops[i:])
			command, flags := unix.NFT_MSG_NEWSETELEM, netlink.Create
			if o.Verb == DelElement {
				command, flags = unix.NFT_MSG_DELSETELEM, 0
			}
			s := sets[o.Set]
			keys := make([][]byte, n)
			for k, o := range ops[i : i+n] {
				keys[k] = s.encode(o.Element)
			}
			err = add(command, flags, append(elementList(keys), str(unix.NFTA_SET_ELEM_LIST_SET, s.name))...)
		default:
			err = fmt.Errorf("no such verb: %d", o.Verb)
		}
		if err != nil {
			return nil, err
		}
		i += n
	}
	return out, nil
}

// run is how many of the first ops are the same verb on elements of one set and fit into one message.
func run(ops []Op) int {
	size := len(sets[ops[0].Set].encode(ops[0].Element)) + 12 // three attribute headers
	for n, o := range ops {
		if o.Verb != ops[0].Verb || o.Set != ops[0].Set || n*size > maxList {
			return n
		}
	}
	return len(ops)
}

func elementList(keys [][]byte) []netlink.Attribute {
	list := make([]netlink.Attribute, len(keys))
	for i, key := range keys {
		list[i] = nested(unix.NFTA_LIST_ELEM,
			nested(unix.NFTA_SET_ELEM_KEY, netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: key}))
	}
	return []netlink.Attribute{str(unix.NFTA_SET_ELEM_LIST_TABLE, Table), nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...)}
}

func (s set) attributes() []netlink.Attribute {
	udata := userdata.AppendString(bigEndian(), userdata.NFTNL_UDATA_SET_COMMENT, s.comment)
	return []netlink.Attribute{
		str(unix.NFTA_SET_TABLE, Table), str(unix.NFTA_SET_NAME, s.name),
		be32(unix.NFTA_SET_ID, uint32(slices.Index(setOrder, s.name)+1)),
		be32(unix.NFTA_SET_FLAGS, 0),
		be32(unix.NFTA_SET_KEY_TYPE, s.key.GetNFTMagic()), be32(unix.NFTA_SET_KEY_LEN, s.key.Bytes),
		{Type: unix.NFTA_SET_USERDATA, Data: udata},
	}
}

// bigEndian is nft's own note on how to print a set's keys (BYTEORDER_BIG_ENDIAN of its datatype.h).
func bigEndian() []byte { return userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, 2) }

// marshal makes the rule's anonymous set, if it has one, and the rule, the chain's last; id is unique in the transaction.
func (r Rule) marshal(chain string, id uint32, add func(int, netlink.HeaderFlags, ...netlink.Attribute) error) error {
	var list []netlink.Attribute
	for _, e := range r.exprs() {
		if l, ok := e.(*expr.Lookup); ok && l.SetName == protocols {
			key := nftables.TypeInetProto
			if err := add(unix.NFT_MSG_NEWSET, netlink.Create,
				str(unix.NFTA_SET_TABLE, Table), str(unix.NFTA_SET_NAME, anonymous), be32(unix.NFTA_SET_ID, id),
				be32(unix.NFTA_SET_FLAGS, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT),
				be32(unix.NFTA_SET_KEY_TYPE, key.GetNFTMagic()), be32(unix.NFTA_SET_KEY_LEN, key.Bytes),
				nested(unix.NFTA_SET_DESC, be32(unix.NFTA_SET_DESC_SIZE, uint32(len(protocolKeys)))),
				netlink.Attribute{Type: unix.NFTA_SET_USERDATA, Data: bigEndian()}); err != nil {
				return err
			}
			if err := add(unix.NFT_MSG_NEWSETELEM, netlink.Create,
				append(elementList(protocolKeys), str(unix.NFTA_SET_ELEM_LIST_SET, anonymous), be32(unix.NFTA_SET_ELEM_LIST_SET_ID, id))...); err != nil {
				return err
			}
			e = &expr.Lookup{SourceRegister: l.SourceRegister, SetName: anonymous, SetID: id}
		}
		a, err := marshalExpr(e)
		if err != nil {
			return err
		}
		list = append(list, a)
	}
	return add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append,
		str(unix.NFTA_RULE_TABLE, Table), str(unix.NFTA_RULE_CHAIN, chain),
		nested(unix.NFTA_RULE_EXPRESSIONS, list...), comment(unix.NFTA_RULE_USERDATA, r.comment()))
}

// marshalExpr is an expression as an element of a rule's list.
func marshalExpr(e expr.Any) (netlink.Attribute, error) {
	if ct, ok := e.(*expr.Ct); ok {
		// google/nftables leaves the direction out for NFT_CT_DST_IP and NFT_CT_DST_IP6.
		return nested(unix.NFTA_LIST_ELEM, str(unix.NFTA_EXPR_NAME, "ct"), nested(unix.NFTA_EXPR_DATA,
			be32(unix.NFTA_CT_KEY, uint32(ct.Key)), be32(unix.NFTA_CT_DREG, ct.Register),
			netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{uint8(ct.Direction)}})), nil
	}
	data, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err != nil {
		return netlink.Attribute{}, fmt.Errorf("marshalling an expression: %w", err)
	}
	return netlink.Attribute{Type: unix.NFTA_LIST_ELEM | netlink.Nested, Data: data}, nil
}

// message is a command on an object of an inet table.
func message(command int, flags netlink.HeaderFlags, attrs []netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return netlink.Message{}, fmt.Errorf("marshalling an nf_tables message: %w", err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | command), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	}, nil
}

func str(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(s), 0)}
}

func be32(kind uint16, v uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binaryutil.BigEndian.PutUint32(v)}
}

func nested(kind uint16, attrs ...netlink.Attribute) netlink.Attribute {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		// Only what is above 64 KiB can't be marshalled, and maxList keeps below it.
		panic(err)
	}
	return netlink.Attribute{Type: kind | netlink.Nested, Data: data}
}

// comment is one that the nft program shows. Its type is 0 for tables, chains and rules alike
// (NFTNL_UDATA_*_COMMENT of libnftnl's udata.h).
func comment(kind uint16, text string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: userdata.AppendString(nil, userdata.TypeComment, text)}
}
