package linuxnet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"mvm/internal/egress"
)

// A box is a range of addresses, of protocols and of ports, each from the first to the
// last. The kernel refuses boxes that overlap in one set.
type box [3][2]uint32

func boxOf(d egress.Destination) box {
	first := binary.BigEndian.Uint32(d.Prefix.Addr().AsSlice())
	b := box{{first, first | uint32(uint64(1)<<(32-d.Prefix.Bits())-1)}, {0, 255}, {0, 65535}}
	if p := map[string]uint32{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[d.Protocol]; p != 0 {
		b[1] = [2]uint32{p, p}
	}
	if d.Port != 0 {
		b[2] = [2]uint32{uint32(d.Port), uint32(d.Port)}
	}
	return b
}

// egressBoxes are boxes that do not overlap and have together the addresses that the list has.
func egressBoxes(list []egress.Destination) (out []box) {
	for _, d := range list {
		if d.Name != "" {
			continue
		}
		pieces := []box{boxOf(d)}
		for _, have := range out {
			var left []box
			for _, p := range pieces {
				left = append(left, p.without(have)...)
			}
			pieces = left
		}
		out = append(out, pieces...)
	}
	return out
}

// without is what is left of b outside of the other box, in pieces.
func (b box) without(other box) (out []box) {
	for n := range b {
		if b[n][1] < other[n][0] || other[n][1] < b[n][0] {
			return []box{b}
		}
	}
	for n := range b {
		if low := b; low[n][0] < other[n][0] {
			low[n][1] = other[n][0] - 1
			out, b[n][0] = append(out, low), other[n][0]
		}
		if high := b; high[n][1] > other[n][1] {
			high[n][0] = other[n][1] + 1
			out, b[n][1] = append(out, high), other[n][1]
		}
	}
	return out
}

// key is the box with its sender, as the set has it.
func (b box) key(from netip.Addr) (key string) {
	for end := range 2 {
		to := binary.BigEndian.AppendUint32(from.AsSlice(), b[0][end])
		key += string(to) + pad([]byte{byte(b[1][end])}) + pad(be16(uint16(b[2][end])))
	}
	return key
}
