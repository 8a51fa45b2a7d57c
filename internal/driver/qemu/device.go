package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/qemu/qmp"
	"mvm/internal/driver/qemu/spawn"
)

const (
	// maxDeviceState bounds what a VMM may say its devices are; they take 70 to 500 KB.
	maxDeviceState = 64 << 20
	// deviceTimeout bounds the time it may take.
	deviceTimeout = 30 * time.Second
)

// A migration stream begins with these, and a device state alone too.
var streamHead = []byte{'Q', 'E', 'V', 'M', 0, 0, 0, 3}

// deviceState has QEMU tell the state of its devices, without the guest's memory, as a
// migration stream.
func (v *vmm) deviceState(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	raw, err := v.saveDevices(ctx)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(raw, streamHead) {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read the device state: it is none")
	}
	return slices.Concat(streamHead, configuration(), raw[len(streamHead):]), nil
}

// configuration is the section with which a migration stream goes on, and which QEMU leaves
// out of a device state alone: of which machine it is.
func configuration() []byte {
	const section = 7
	name := []byte(spawn.MachineType)
	return append(binary.BigEndian.AppendUint32([]byte{section}, uint32(len(name))), name...)
}

// saveDevices has QEMU write the state into a file in memory, and reads that once: a VMM
// that was taken over may write on.
func (v *vmm) saveDevices(ctx context.Context) ([]byte, error) {
	q, err := v.client(ctx)
	if err != nil {
		return nil, err
	}
	r, w, err := memoryFile()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "save the device state: %w", err)
	}
	defer r.Close()
	set, err := q.AddFile(ctx, w)
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	err = q.Do(ctx, "xen-save-devices-state", map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set), "live": false}, nil)
	if err = errors.Join(err, removeFile(ctx, q, set)); err != nil {
		return nil, err
	}
	state, err := io.ReadAll(io.NewSectionReader(r, 0, maxDeviceState+1))
	if err == nil && len(state) > maxDeviceState {
		err = fmt.Errorf("it has more than %d bytes", maxDeviceState)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "save the device state: %w", err)
	}
	return state, nil
}

// memoryFile makes a file in memory, open for reading and, as QEMU opens what it writes, for
// writing alone.
func memoryFile() (r, w *os.File, err error) {
	fd, err := unix.MemfdCreate("device-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	r = os.NewFile(uintptr(fd), "device-state")
	if w, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0); err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, w, nil
}

// removeFile has QEMU close the file, also where there is no more time.
func removeFile(ctx context.Context, q *qmp.Client, set int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), qmpTimeout)
	defer cancel()
	return q.Do(ctx, "remove-fd", map[string]int{"fdset-id": set}, nil)
}
