package hostd

import (
	"context"
	"net"

	"mvm/internal/driver/vmproc"
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
	OpStart     = byte(opStart)
	OpKill      = byte(opKill)
	OpLimitCPU  = byte(opLimitCPU)
	OpStats     = byte(opStats)
	OpTAP       = byte(opTAP)
	OpFind      = byte(opFind)
	OpLeave     = byte(opLeave)
	OpChanged   = byte(opChanged)
	OpRead      = byte(opRead)
	OpWrite     = byte(opWrite)
	OpResolver  = byte(opResolver)
	OpAdmit     = byte(opAdmit)
	OpDropped   = byte(opDropped)
	OpLast      = byte(opLast)
)

// Do does a request as root's, without files.
func (s *Server) Do(ctx context.Context, kind byte, body []byte) error {
	r, err := s.do(ctx, request{op: op(kind), body: body, from: vmproc.Owner{}})
	closeAll(r.files)
	return err
}

// Receive reads a frame as the server does.
func Receive(conn *net.UnixConn) (kind byte, body []byte, err error) {
	kind, body, files, err := receive(conn, func(kind byte) int { return op(kind).limit() }, maxFiles)
	closeAll(files)
	return kind, body, err
}
