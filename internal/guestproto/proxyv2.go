package guestproto

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
)

// A connection that the host forwards to a gateway begins with a PROXY protocol
// version 2 header, which carries the client's address:
//
//	signature (12) | version 2 and command (1) | family and transport (1) |
//	length of the rest, big-endian (2) | source, destination, ports | TLVs, ignored

// MaxProxyHeader bounds a PROXY v2 header, in bytes, signature and all.
const MaxProxyHeader = 16 + 512

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyProxy     = 0x21
	proxyLocal     = 0x20
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21
)

// ErrProxyHeader says that a connection does not begin with a PROXY v2 header that
// names a TCP source.
var ErrProxyHeader = errors.New("not a PROXY protocol v2 header for TCP")

// AppendProxyHeader appends the PROXY v2 header of a TCP connection from src to dst.
// When one of them is IPv6, both are written as IPv6.
func AppendProxyHeader(b []byte, src, dst netip.AddrPort) []byte {
	from, to := src.Addr().Unmap(), dst.Addr().Unmap()
	b = append(b, proxySignature...)
	if from.Is4() && to.Is4() {
		b = append(b, proxyProxy, proxyTCP4, 0, 12)
		b = append(b, from.AsSlice()...)
		b = append(b, to.AsSlice()...)
	} else {
		b = append(b, proxyProxy, proxyTCP6, 0, 36)
		from16, to16 := from.As16(), to.As16()
		b = append(b, from16[:]...)
		b = append(b, to16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

// ReadProxyHeader reads exactly one PROXY v2 header from r, at most MaxProxyHeader
// bytes and nothing after it, and returns the source and destination. Anything
// that is not a header for TCP is ErrProxyHeader; the caller sets the deadline.
func ReadProxyHeader(r io.Reader) (src, dst netip.AddrPort, err error) {
	return readProxyHeader(r, false)
}

// ReadBalancerHeader is ReadProxyHeader for the header of a load balancer, which may say
// as well (LOCAL) that the connection is its own, as its health checks are: then src and
// dst are not valid.
func ReadBalancerHeader(r io.Reader) (src, dst netip.AddrPort, err error) {
	return readProxyHeader(r, true)
}

func readProxyHeader(r io.Reader, local bool) (src, dst netip.AddrPort, err error) {
	var buf [MaxProxyHeader]byte
	head := buf[:16]
	if _, err := io.ReadFull(r, head); err != nil {
		return src, dst, err
	}
	length := int(binary.BigEndian.Uint16(head[14:]))
	own := local && head[12] == proxyLocal
	if string(head[:12]) != proxySignature || head[12] != proxyProxy && !own || length > MaxProxyHeader-16 {
		return src, dst, ErrProxyHeader
	}
	if own { // what it says of addresses does not count
		_, err = io.ReadFull(r, buf[16:16+length])
		return src, dst, err
	}
	size := 4
	switch head[13] {
	case proxyTCP4:
	case proxyTCP6:
		size = 16
	default:
		return src, dst, ErrProxyHeader
	}
	if length < 2*size+4 {
		return src, dst, ErrProxyHeader
	}
	rest := buf[16 : 16+length]
	if _, err := io.ReadFull(r, rest); err != nil {
		return src, dst, err
	}
	from, _ := netip.AddrFromSlice(rest[:size])
	to, _ := netip.AddrFromSlice(rest[size : 2*size])
	ports := rest[2*size:]
	return netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:])), nil
}
