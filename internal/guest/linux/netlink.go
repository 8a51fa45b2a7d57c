package linux

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// route is a netlink socket for links, addresses and routes; IPv4 only.
type route struct {
	fd  int
	seq uint32
}

func openRoute() (*route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(int64(5 * time.Second))
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &route{fd: fd}, nil
}

func (r *route) close() { unix.Close(r.fd) }

// attr is a netlink attribute.
type attr struct {
	kind uint16
	data []byte
}

// ask sends a request and returns the messages of the answer, once the kernel has
// said that it is done.
func (r *route) ask(kind uint16, flags uint16, body []byte, attrs ...attr) ([]syscall.NetlinkMessage, error) {
	r.seq++
	for _, a := range attrs {
		body = binary.NativeEndian.AppendUint16(body, uint16(4+len(a.data)))
		body = binary.NativeEndian.AppendUint16(body, a.kind)
		body = append(body, a.data...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
	}
	msg := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, r.seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	if err := unix.Sendto(r.fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	return r.answer()
}

func (r *route) answer() ([]syscall.NetlinkMessage, error) {
	var out []syscall.NetlinkMessage
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(append([]byte(nil), buf[:n]...))
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Seq != r.seq:
			case m.Header.Type == unix.NLMSG_DONE:
				return out, nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
					return nil, syscall.Errno(errno)
				}
				return out, nil
			default:
				out = append(out, m)
			}
		}
	}
}

// setLink takes a link up or down, with the attributes.
func (r *route) setLink(index int, up bool, attrs ...attr) error {
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP
	}
	body := make([]byte, 4, 16)
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	body = binary.NativeEndian.AppendUint32(body, flags)
	body = binary.NativeEndian.AppendUint32(body, unix.IFF_UP)
	_, err := r.ask(unix.RTM_NEWLINK, 0, body, attrs...)
	return err
}

// addresses lists a link's IPv4 addresses.
func (r *route) addresses(index int) ([]netip.Prefix, error) {
	msgs, err := r.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, []byte{unix.AF_INET, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < 8 || int(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if addr, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == unix.IFA_LOCAL {
				out = append(out, netip.PrefixFrom(addr, int(m.Data[1])))
			}
		}
	}
	return out, nil
}

func addressBody(index int, p netip.Prefix) ([]byte, []attr) {
	body := []byte{unix.AF_INET, byte(p.Bits()), 0, 0}
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	addr := p.Addr().AsSlice()
	return body, []attr{{unix.IFA_LOCAL, addr}, {unix.IFA_ADDRESS, addr}}
}

func (r *route) addAddress(index int, p netip.Prefix) error {
	body, attrs := addressBody(index, p)
	_, err := r.ask(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, attrs...)
	return err
}

func (r *route) deleteAddress(index int, p netip.Prefix) error {
	body, attrs := addressBody(index, p)
	_, err := r.ask(unix.RTM_DELADDR, 0, body, attrs...)
	return err
}

// setDefault makes the gateway, over the link, the one default route.
func (r *route) setDefault(index int, gateway netip.Addr) error {
	body := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	_, err := r.ask(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body,
		attr{unix.RTA_GATEWAY, gateway.AsSlice()},
		attr{unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index))})
	return err
}

// refreshNeighbour drops what the link knows of an address's MAC, which may be
// another after a sleep, and has the kernel ask for it at once. The question is a
// broadcast, so the bridge and the neighbours learn where this machine is.
func (r *route) refreshNeighbour(index int, addr netip.Addr) error {
	body := func(flags byte) []byte {
		b := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 0, 0, 0}, uint32(index))
		return append(b, 0, 0, flags, 0)
	}
	dst := attr{unix.NDA_DST, addr.AsSlice()}
	if _, err := r.ask(unix.RTM_DELNEIGH, 0, body(0), dst); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	_, err := r.ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE, body(unix.NTF_USE), dst)
	return err
}
