package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Times of one question to upstream. A guest's libc waits for 5 s.
const (
	askTimeout = 1500 * time.Millisecond // for one server, by UDP and TCP together
	allTimeout = 4500 * time.Millisecond
	askRounds  = 2
	maxStrays  = 16 // datagrams that are no answer, before the server is given up
)

// upstream asks the host's name servers.
type upstream struct {
	list func() []netip.AddrPort
	good atomic.Uint32 // the server that answered last
}

// exchange asks one server after the other, beginning with the one that answered last, until
// one says what there is.
func (u *upstream) exchange(ctx context.Context, q query) (r reply, err error) {
	list := u.list()
	if len(list) == 0 {
		return r, errors.New("the host has no name server")
	}
	ctx, cancel := context.WithTimeout(ctx, allTimeout)
	defer cancel()
	first := int(u.good.Load())
	for n := range askRounds * len(list) {
		at := (first + n) % len(list)
		var failed error
		if r, failed = askServer(ctx, list[at], q); failed == nil {
			u.good.Store(uint32(at))
			return r, nil
		}
		err = fmt.Errorf("ask %s: %w", list[at], failed)
		if ctx.Err() != nil {
			return r, err
		}
	}
	return r, err
}

func askServer(ctx context.Context, server netip.AddrPort, q query) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err = askUDP(ctx, server, q)
	if errors.Is(err, errCut) {
		r, err = askTCP(ctx, server, q)
	}
	if err == nil && r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError {
		return r, fmt.Errorf("it answers %s", r.code.String())
	}
	return r, err
}

// dial connects for one question, from a port of the kernel's choice, and ends with ctx.
func dial(ctx context.Context, network string, server netip.AddrPort) (conn net.Conn, done func(), err error) {
	if conn, err = (&net.Dialer{}).DialContext(ctx, network, server.String()); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); _ = conn.Close() }, nil
}

func newID() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:])
}

func askUDP(ctx context.Context, server netip.AddrPort, q query) (r reply, err error) {
	conn, done, err := dial(ctx, "udp", server)
	if err != nil {
		return r, err
	}
	defer done()
	id := newID()
	b, err := q.ask(id)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(b); err != nil {
		return r, err
	}
	buf := make([]byte, 4096)
	for range maxStrays {
		n, err := conn.Read(buf)
		if err != nil {
			return r, err
		}
		if r, err = readReply(buf[:n], id, q); !errors.Is(err, errOther) {
			return r, err
		}
	}
	return r, errOther
}

func askTCP(ctx context.Context, server netip.AddrPort, q query) (r reply, err error) {
	conn, done, err := dial(ctx, "tcp", server)
	if err != nil {
		return r, err
	}
	defer done()
	id := newID()
	b, err := q.ask(id)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		return r, err
	}
	b, err = readFrame(conn, maxReply)
	if err != nil {
		return r, err
	}
	return readReply(b, id, q)
}

// readFrame reads a message as TCP has it, behind its length.
func readFrame(conn io.Reader, most int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > most {
		return nil, fmt.Errorf("a message of %d bytes is longer than %d", n, most)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(conn, b)
	return b, err
}
