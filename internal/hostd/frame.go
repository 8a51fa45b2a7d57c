package hostd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mvm/internal/strictjson"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
)

// header is version, kind and length.
const header = 6

// Kinds of answers.
const (
	answered byte = 1
	failed   byte = 2
)

// send writes a frame, with the files.
func send(conn *net.UnixConn, kind byte, v any, files []*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32([]byte{version, kind}, uint32(len(body)))
	frame = append(frame, body...)
	var numbers []int
	var hold func(rest []*os.File) error // each file's number is its own while it is sent
	hold = func(rest []*os.File) error {
		if len(rest) == 0 {
			return write(conn, frame, numbers)
		}
		raw, err := rest[0].SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(fd uintptr) {
			numbers = append(numbers, int(fd))
			err = hold(rest[1:])
		})
		return errors.Join(cerr, err)
	}
	return hold(files)
}

func write(conn *net.UnixConn, frame []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(frame, oob, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	return err
}

// receive reads a frame whose length limit allows, with at most max files, which are
// the caller's. The connection has a deadline.
func receive(conn *net.UnixConn, limit func(kind byte) int, max int) (kind byte, body []byte, files []*os.File, err error) {
	var head [header]byte
	files, err = receiveHead(conn, head[:], max)
	if err == nil {
		kind, body, err = receiveBody(conn, head, limit)
	}
	if err != nil {
		closeAll(files)
		return 0, nil, nil, err
	}
	return kind, body, files, nil
}

// receiveHead reads the head, and the files that come with its first byte.
func receiveHead(conn *net.UnixConn, head []byte, max int) ([]*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	files, err := takeFiles(oob[:oobn])
	switch {
	case err == nil && flags&unix.MSG_CTRUNC != 0 && len(files) < max:
		err = mvm.Errorf(mvm.KindUnavailable, "read frame: there is no room for its files: %w", syscall.EMFILE)
	case err == nil && flags&unix.MSG_CTRUNC != 0 || len(files) > max:
		err = mvm.Errorf(mvm.KindInvalid, "read frame: more than %d files came with it", max)
	case err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	case err == nil:
		_, err = io.ReadFull(conn, head[n:]) // files with later bytes are closed by the kernel
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func takeFiles(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // no files
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func receiveBody(conn *net.UnixConn, head [header]byte, limit func(kind byte) int) (byte, []byte, error) {
	kind, n := head[1], int64(binary.BigEndian.Uint32(head[2:]))
	most := int64(limit(kind))
	switch {
	case head[0] != version:
		return 0, nil, mvm.Errorf(mvm.KindInvalid, "read frame: version %d of the protocol, here it is %d", head[0], version)
	case most == 0:
		return 0, nil, mvm.Errorf(mvm.KindInvalid, "read frame: there is no kind %d", kind)
	case n > most:
		return 0, nil, mvm.Errorf(mvm.KindInvalid, "read frame: it has %d bytes, at most %d may be", n, most)
	}
	var body bytes.Buffer // grows with what comes, not with what is announced
	if got, err := io.Copy(&body, io.LimitReader(conn, n)); err != nil || got < n {
		return 0, nil, errors.Join(err, fmt.Errorf("read frame: %w", io.ErrUnexpectedEOF))
	}
	return kind, body.Bytes(), nil
}

// decode reads one JSON value: unknown fields and anything behind it are errors.
func decode[T any](body []byte) (v T, err error) {
	if err := strictjson.Unmarshal(body, &v); err != nil {
		return v, mvm.Errorf(mvm.KindInvalid, "read request: %w", err)
	}
	return v, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
