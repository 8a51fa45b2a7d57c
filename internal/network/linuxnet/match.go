package linuxnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A match is a piece of a rule: expressions that go on to the next piece or end the
// rule. A rule is its pieces one after the other.
type match []expr.Any

// Registers. A concatenation begins at reg1 and its parts follow each other at 4-byte
// steps: reg1 holds 16 bytes, which is an interface name; after it come the others.
const (
	reg1    = unix.NFT_REG_1
	reg2    = unix.NFT_REG_2        // byte 16, after an interface name
	reg1b4  = unix.NFT_REG32_00 + 1 // bytes 4, 8 and 12, after one, two and three words
	reg1b8  = unix.NFT_REG32_00 + 2
	reg1b12 = unix.NFT_REG32_00 + 3
	reg2b4  = unix.NFT_REG32_00 + 5 // byte 20, after a name and an IPv4 address
	reg2b8  = unix.NFT_REG32_00 + 6 // byte 24, after a name and an Ethernet address
)

const (
	offEtherDst, offEtherSrc, offEtherType = 0, 6, 12
	offARPSenderMAC, offARPSenderIP        = 8, 14
	offIPSrc, offIPDst                     = 12, 16
)

func linkBytes(off, n, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseLLHeader, Offset: off, Len: n}
}

func netBytes(off, n, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: n}
}

func transportBytes(off, n, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: off, Len: n}
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// ifname is an interface name as sets and registers hold it.
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// isTAP matches the names tn0… to tn9…, which are mvm's, whether or not such an
// interface exists yet.
func isTAP(key expr.MetaKey) match {
	return match{meta(key, reg1), compare(expr.CmpOpGte, ifname("tn0")), compare(expr.CmpOpLt, ifname("tn:"))}
}

func isBridge(key expr.MetaKey) match {
	return match{meta(key, reg1), compare(expr.CmpOpEq, []byte("br-tenant-"))}
}

func isNotBridge(key expr.MetaKey) match {
	return match{meta(key, reg1), compare(expr.CmpOpNeq, []byte("br-tenant-"))}
}

func notLoopback() match {
	return match{meta(expr.MetaKeyIIFNAME, reg1), compare(expr.CmpOpNeq, ifname("lo"))}
}

func etherType(t uint16) match {
	return match{linkBytes(offEtherType, 2, reg1), compare(expr.CmpOpEq, be16(t))}
}

// groupAddress matches a destination that is multicast or broadcast.
func groupAddress() match {
	return match{linkBytes(offEtherDst, 6, reg1), and([]byte{1, 0, 0, 0, 0, 0}), compare(expr.CmpOpNeq, make([]byte, 6))}
}

func etherBroadcast(op expr.CmpOp) match {
	return match{linkBytes(offEtherDst, 6, reg1), compare(op, bytes.Repeat([]byte{0xff}, 6))}
}

// plainIPv4 matches an IPv4 header of 20 bytes: no options, so no source routes.
func plainIPv4() match { return match{netBytes(0, 1, reg1), compare(expr.CmpOpEq, []byte{0x45})} }

// plainARP matches ARP requests and replies for IPv4 over Ethernet.
func plainARP() match {
	return match{
		netBytes(0, 4, reg1), compare(expr.CmpOpEq, []byte{0, 1, 8, 0}),
		netBytes(4, 2, reg1), compare(expr.CmpOpEq, []byte{6, 4}),
		netBytes(6, 2, reg1), compare(expr.CmpOpGte, be16(1)), compare(expr.CmpOpLte, be16(2)),
	}
}

func and(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

func isIPv4(op expr.CmpOp) match {
	return match{meta(expr.MetaKeyNFPROTO, reg1), compare(op, []byte{unix.NFPROTO_IPV4})}
}

func toPrefix(p netip.Prefix) match {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	return match{netBytes(offIPDst, 4, reg1), and(mask), compare(expr.CmpOpEq, p.Masked().Addr().AsSlice())}
}

// toNonUnicast matches destinations that the host's routes call local, broadcast,
// multicast, unreachable and so on: everything that is not another machine's address.
func toNonUnicast() match {
	return match{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		compare(expr.CmpOpNeq, host32(unix.RTN_UNICAST)),
	}
}

func protocol(p byte) match {
	return match{meta(expr.MetaKeyL4PROTO, reg1), compare(expr.CmpOpEq, []byte{p})}
}

// ctState matches connection states; ctReply what flows against the direction in
// which the connection was opened.
func ctState(bits uint32) match {
	return match{&expr.Ct{Key: expr.CtKeySTATE, Register: reg1}, and(host32(bits)), compare(expr.CmpOpNeq, host32(0))}
}

func ctReply() match {
	return match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, compare(expr.CmpOpEq, []byte{1})}
}

// in matches when what the loads put into the registers is an element of the set.
func in(set string, loads ...expr.Any) match {
	return append(loads, &expr.Lookup{SourceRegister: reg1, SetName: set})
}

func notIn(set string, loads ...expr.Any) match {
	return append(loads, &expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true})
}

// overConns matches when the sender holds more than limit connections already.
func overConns(set string, limit uint32) match {
	return match{netBytes(offIPSrc, 4, reg1), &expr.Dynset{
		SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_ADD,
		Exprs: []expr.Any{&expr.Connlimit{Count: limit, Flags: expr.NFT_CONNLIMIT_F_INV}},
	}}
}

// addrIn matches when 4 bytes of the network header are an address in the set.
func addrIn(set string, off uint32) match    { return in(set, netBytes(off, 4, reg1)) }
func addrNotIn(set string, off uint32) match { return notIn(set, netBytes(off, 4, reg1)) }

// inPorts and notInPorts look at an interface's name.
func inPorts(set string, key expr.MetaKey) match    { return in(set, meta(key, reg1)) }
func notInPorts(set string, key expr.MetaKey) match { return notIn(set, meta(key, reg1)) }

// flow loads sender, destination, protocol and port. A packet without a port, such as an
// ICMP message, has other bytes there; one too short for them matches no rule.
func flow() []expr.Any {
	return []expr.Any{netBytes(offIPSrc, 4, reg1), netBytes(offIPDst, 4, reg1b4), meta(expr.MetaKeyL4PROTO, reg1b8), transportBytes(2, 2, reg1b12)}
}

func toPort(n uint16) match {
	return match{transportBytes(2, 2, reg1), compare(expr.CmpOpEq, be16(n))}
}

// refusedOften matches when the sender was refused more than once a second for a while.
func refusedOften() match {
	return match{netBytes(offIPSrc, 4, reg1), &expr.Dynset{
		SrcRegKey: reg1, SetName: setRefusing, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: refusedFor,
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeSecond, Burst: 30, Over: true}},
	}}
}

// askingOften matches when the sender sends more packets of questions than mvm would answer.
func askingOften() match {
	return match{netBytes(offIPSrc, 4, reg1), &expr.Dynset{
		SrcRegKey: reg1, SetName: setAsking, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Minute,
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 200, Unit: expr.LimitTimeSecond, Burst: 800, Over: true}},
	}}
}

// remembered keeps the flow in the set for a while.
func remembered() match {
	return append(flow(), &expr.Dynset{SrcRegKey: reg1, SetName: setRefused, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: refusedFor})
}

// notOf matches packets of sockets whose owner is none of the users. A packet without
// a socket, which the kernel itself sends, does not match.
func notOf(users []int) match {
	m := match{meta(expr.MetaKeySKUID, reg1)}
	for _, u := range users {
		m = append(m, compare(expr.CmpOpNeq, host32(uint32(u))))
	}
	return m
}

// unreachable answers that the way is forbidden.
func unreachable() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

func back() match    { return match{&expr.Verdict{Kind: expr.VerdictReturn}} }
func accept() match  { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() match    { return match{&expr.Verdict{Kind: expr.VerdictDrop}} }
func notrack() match { return match{&expr.Notrack{}} }
func masq() match    { return match{&expr.Masq{}} }

func jump(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

func concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	t, err := nftables.ConcatSetType(types...)
	if err != nil {
		return nftables.TypeInvalid // five types or fewer always fit
	}
	return t
}
