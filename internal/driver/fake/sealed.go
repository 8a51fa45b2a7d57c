package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/sys"
)

// pages are the memory of a guest: its state, and zeros behind it. Another goroutine may read
// others.
type pages []byte

// Shared is described at atrest.Memory, as are the others.
func (p pages) Shared() bool { return false }

// Changed lists the pages that the state takes.
func (p pages) Changed(_ context.Context, from int64, _ int) ([]sys.PageRun, int64, error) {
	n := int64(len(p)+sys.PageSize-1) / sys.PageSize
	if from >= n {
		return nil, 1 << 40, nil
	}
	return []sys.PageRun{{Page: from, Count: n - from}}, 1 << 40, nil
}

func (p pages) Read(_ context.Context, runs []sys.PageRun, buf []byte) error {
	for _, r := range runs {
		n := r.Count * sys.PageSize
		clear(buf[:n])
		copy(buf[:n], p[min(int64(len(p)), r.Page*sys.PageSize):])
		buf = buf[n:]
	}
	return nil
}

// WriteAt puts what a snapshot has into the memory.
func (p pages) WriteAt(data []byte, at int64) (int, error) {
	if at < 0 || at > int64(len(p)-len(data)) {
		return 0, mvm.Errorf(mvm.KindInvalid, "write %d bytes of a guest's memory at %d: it has no more than %d", len(data), at, len(p))
	}
	return copy(p[at:], data), nil
}

// seal writes the snapshot. A sleeping guest's secrets are not in it. mu is held.
func (m *machine) seal(ctx context.Context, snap driver.Snapshot, nonce string, seam func(string) error) error {
	f := memoryFile{Snapshot: nonce, Guest: m.guest}
	f.Guest.Secrets = nil
	memory, err := json.Marshal(f)
	state := newStateFile(nonce, m.spec)
	state.Bytes = len(memory)
	device, derr := json.Marshal(state)
	if err = errors.Join(err, derr); err != nil {
		return err
	}
	_, err = atrest.Save(ctx, snap, atrest.VMM{Dir: m.spec.Dir, MemMiB: m.spec.MemMiB, Device: device, Memory: pages(memory), Seam: seam})
	return err
}

// unseal reads a snapshot that seal wrote.
func unseal(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (state stateFile, memory memoryFile, err error) {
	s, err := atrest.Open(spec.Dir, snap, spec.MemMiB)
	if err != nil {
		return state, memory, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err = json.Unmarshal(s.Device(), &state); err == nil && (state.Bytes < 0 || state.Bytes > 4*maxGuestBytes) {
		err = fmt.Errorf("its memory has %d bytes", state.Bytes)
	}
	if err != nil {
		return state, memory, badSnapshot(mvm.Errorf(mvm.KindInvalid, "read the snapshot of %s: %w", spec.ID, err))
	}
	p := make(pages, (state.Bytes+sys.PageSize-1)/sys.PageSize*sys.PageSize)
	if err := recall(ctx, s, p); err != nil {
		return state, memory, err
	}
	if err := json.Unmarshal(p[:state.Bytes], &memory); err != nil {
		return state, memory, badSnapshot(mvm.Errorf(mvm.KindInvalid, "read the memory of %s: %w", spec.ID, err))
	}
	return state, memory, nil
}

// recall reads the memory, from where it is ready or from the snapshot's files.
func recall(ctx context.Context, s *atrest.Snapshot, p pages) error {
	f := s.Memory()
	if f == nil {
		return s.Fill(ctx, p)
	}
	_, err := f.ReadAt(p, 0)
	if err != nil {
		err = mvm.Errorf(mvm.KindUnavailable, "read the guest's memory: %w", err)
	}
	return errors.Join(err, f.Close())
}
