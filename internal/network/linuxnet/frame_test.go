package linuxnet_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Builders of frames, right or wrong, byte by byte.

const (
	typeIPv4, typeARP, typeIPv6   = 0x0800, 0x0806, 0x86dd
	protoICMP, protoTCP, protoUDP = 1, 6, 17
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		return nil
	}
	return m
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func u16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
func u32(v int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }

func ether(dst, src net.HardwareAddr, typ int, payload ...[]byte) []byte {
	return slices.Concat(dst, src, u16(typ), slices.Concat(payload...))
}

func checksum(parts ...[]byte) []byte {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return u16(int(^uint16(sum)))
}

// packet is an IPv4 packet; the zero values are the usual ones.
type packet struct {
	src, dst netip.Addr
	proto    byte
	ttl      byte
	id       int
	frag     int // flags and offset as in the header
	options  []byte
	payload  []byte
}

func (p packet) bytes() []byte {
	if p.ttl == 0 {
		p.ttl = 64
	}
	ihl := 5 + len(p.options)/4
	h := slices.Concat([]byte{byte(0x40 | ihl), 0}, u16(ihl*4+len(p.payload)), u16(p.id), u16(p.frag),
		[]byte{p.ttl, p.proto, 0, 0}, p.src.AsSlice(), p.dst.AsSlice(), p.options)
	copy(h[10:], checksum(h))
	return append(h, p.payload...)
}

func udp(src, dst netip.Addr, sport, dport int, data []byte) packet {
	return packet{src: src, dst: dst, proto: protoUDP, payload: slices.Concat(u16(sport), u16(dport), u16(8+len(data)), u16(0), data)}
}

const flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16

func tcp(src, dst netip.Addr, sport, dport int, flags byte, data []byte) packet {
	seg := slices.Concat(u16(sport), u16(dport), u32(1), u32(1), []byte{0x50, flags}, u16(1024), u16(0), u16(0), data)
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, protoTCP}, u16(len(seg)))
	copy(seg[16:], checksum(pseudo, seg))
	return packet{src: src, dst: dst, proto: protoTCP, payload: seg}
}

func icmp(src, dst netip.Addr, typ, code byte, rest []byte) packet {
	m := slices.Concat([]byte{typ, code, 0, 0}, rest)
	copy(m[2:], checksum(m))
	return packet{src: src, dst: dst, proto: protoICMP, payload: m}
}

func ping(src, dst netip.Addr, data []byte) packet {
	return icmp(src, dst, 8, 0, slices.Concat(u16(1), u16(1), data))
}

// arp is the body of an ARP frame with data after it, as padding.
func arp(op int, sha net.HardwareAddr, spa netip.Addr, tha net.HardwareAddr, tpa netip.Addr, data []byte) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4}, u16(op), sha, spa.AsSlice(), tha, tpa.AsSlice(), data)
}

func ipv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	return slices.Concat([]byte{0x60, 0, 0, 0}, u16(len(payload)), []byte{next, 255}, src.AsSlice(), dst.AsSlice(), payload)
}

// icmp6 is an ICMPv6 packet with its checksum.
func icmp6(src, dst netip.Addr, typ byte, rest []byte) []byte {
	m := slices.Concat([]byte{typ, 0, 0, 0}, rest)
	copy(m[2:], checksum(src.AsSlice(), dst.AsSlice(), u32(len(m)), u32(58), m))
	return ipv6(src, dst, 58, m)
}
