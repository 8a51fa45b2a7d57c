package hostd

import (
	"context"
	"net"

	"mvm/internal/driver/qemu/spawn"
)

// What tests need of the protocol.
const (
	Version     = version
	MaxRequest  = maxRequest
	MaxApply    = maxApply
	ReadTimeout = readTimeout
	OpHello     = byte(opHello)
	OpApply     = byte(opApply)
	OpLaunch    = byte(opLaunch)
	OpKill      = byte(opKill)
	OpStats     = byte(opStats)
	OpTAP       = byte(opTAP)
	OpLeave     = byte(opLeave)
	OpLast      = byte(opLast)
)

// Do does a request as root's, without files.
func (s *Server) Do(ctx context.Context, kind byte, body []byte) error {
	r, err := s.do(ctx, request{op: op(kind), body: body, from: spawn.Owner{}})
	closeAll(r.files)
	return err
}

// Receive reads a frame as the server does.
func Receive(conn *net.UnixConn) (kind byte, body []byte, err error) {
	kind, body, files, err := receive(conn, func(kind byte) int { return op(kind).limit() }, maxFiles)
	closeAll(files)
	return kind, body, err
}

// Put is a Launch as it is sent.
func Put(l spawn.Launch) any {
	r, _ := put(l)
	return r
}

// Taken are the files of a Launch as the server takes them from what a client puts.
func Taken(l spawn.Launch) (spawn.Files, error) {
	r, files := put(l)
	r.Files = spawn.Files{}
	err := r.take(files)
	return r.Files, err
}
