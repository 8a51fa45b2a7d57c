package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver"
)

// machine is one VMM as the host has it. Every change of it happens under mu and
// is in its record when mu is released.
type machine struct {
	host *Host
	spec driver.Spec
	done chan struct{}

	mu       sync.Mutex
	cond     *sync.Cond // the state changed, or a waiter's context ended
	state    State
	guest    guestState
	disk     map[string][]byte
	used     usage
	loaded   string // the snapshot that it stands at
	exit     driver.Exit
	byCaller bool // a call ended it
	tap      *os.File
	holder   *vmm // the handle that was given out last
	conns    map[net.Conn]struct{}
	handlers sync.WaitGroup
}

func newMachine(h *Host, spec driver.Spec) *machine {
	spec.TAP = nil
	m := &machine{host: h, spec: spec, done: make(chan struct{}), state: Starting, conns: map[net.Conn]struct{}{}}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// holdTAP keeps the interface of the Spec alive as long as the VMM: one that was ended
// meanwhile takes none, since nobody would close it. mu is held.
func (m *machine) holdTAP(op Op, f *os.File) error {
	if err := m.starting(op); err != nil || f == nil {
		return err
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "take the TAP of %s: %w", m.spec.ID, err)
	}
	syscall.CloseOnExec(fd)
	m.tap = os.NewFile(uintptr(fd), f.Name())
	return nil
}

// save writes the record. mu is held.
func (m *machine) save() error {
	r := record{ID: m.spec.ID, State: m.state, Spec: m.spec, Guest: m.guest, Loaded: m.loaded}
	if m.state == Gone {
		r.Guest, r.Exit = guestState{}, &m.exit
	}
	return writeFile(m.spec.RunDir, filepath.Join(m.spec.RunDir, recordName), r, false)
}

// loadDisk reads the guest's /data; a disk never written is empty.
func (m *machine) loadDisk() error {
	path := filepath.Join(m.spec.Dir, diskName)
	err := readFile("disk", m.spec.Dir, path, &m.disk)
	if errors.Is(err, os.ErrNotExist) {
		m.disk = map[string][]byte{}
		return nil
	}
	return err
}

// saveDisk writes /data. mu is held.
func (m *machine) saveDisk() error {
	return writeFile(m.spec.Dir, filepath.Join(m.spec.Dir, diskName), m.disk, false)
}

// noteRan writes Spec.Memory, which says that a guest has run since the last snapshot: it
// fits none any more. mu is held.
func (m *machine) noteRan() error {
	if err := writeFile(m.spec.Dir, m.spec.Memory, memoryFile{}, false); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write memory of %s: %w", m.spec.ID, err)
	}
	return nil
}

// live returns nil while the VMM runs or is paused. mu is held.
func (m *machine) live(op Op) error {
	switch {
	case m.state == Running || m.state == Paused:
		return nil
	case m.byCaller && (op == OpPause || op == OpResume || op == OpSnapshot):
		m.host.violate("%s of %s, which was killed before", op, m.spec.ID)
	}
	return mvm.Errorf(mvm.KindState, "%s %s: the VMM is %s", op, m.spec.ID, m.state)
}

// end makes the VMM gone and closes its streams; false when it was already.
func (m *machine) end(exit driver.Exit, byCaller bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.endLocked(exit, byCaller)
}

func (m *machine) endLocked(exit driver.Exit, byCaller bool) bool {
	if m.state == Gone {
		m.byCaller = m.byCaller || byCaller
		return false
	}
	m.state, m.exit, m.byCaller = Gone, exit, byCaller
	if m.tap != nil {
		_ = m.tap.Close()
		m.tap = nil
	}
	_ = m.save() // its folder may be gone with it
	m.host.remove(m)
	m.host.note("gone %s %s", m.spec.ID, exit.Detail)
	close(m.done)
	for c := range m.conns {
		_ = c.Close()
	}
	m.cond.Broadcast()
	return true
}

// join waits for the goroutines of a VMM that is gone.
func (m *machine) join() { m.handlers.Wait() }

// await waits, with mu held, until ok says so, the VMM is gone or ctx ends.
func (m *machine) await(ctx context.Context, ok func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cond.Broadcast()
	})
	defer stop()
	for !ok() {
		if m.state == Gone {
			return mvm.Errorf(mvm.KindUnavailable, "the VMM of %s is gone", m.spec.ID)
		}
		if ctx.Err() != nil {
			return mvm.Errorf(mvm.KindUnavailable, "guest %s does not answer: %w", m.spec.ID, ctx.Err())
		}
		m.cond.Wait()
	}
	return nil
}

// pause stops the guest: what it was doing is done or waits.
func (m *machine) pause(die bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.live(OpPause); err != nil || m.state == Paused {
		return err
	}
	if die {
		m.endLocked(driver.Exit{Code: 1, Detail: "VMM died while pausing"}, false)
		return mvm.Errorf(mvm.KindUnavailable, "pause %s: the VMM died", m.spec.ID)
	}
	m.state = Paused
	m.guest.PausedAt = time.Now()
	m.host.note("pause %s", m.spec.ID)
	return m.save()
}

// resume lets the guest run. From here on the memory fits no snapshot.
func (m *machine) resume(die bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.live(OpResume); err != nil || m.state == Running {
		return err
	}
	if m.loaded != "" {
		if err := m.noteRan(); err != nil {
			return err
		}
		m.loaded = ""
	}
	if die {
		m.endLocked(driver.Exit{Code: 1, Detail: "VMM died while resuming"}, false)
		return mvm.Errorf(mvm.KindUnavailable, "resume %s: the VMM died", m.spec.ID)
	}
	m.state = Running
	m.guest.Gated = false
	m.guest.ClockOffset -= time.Since(m.guest.PausedAt)
	m.guest.PausedAt = time.Time{}
	m.host.note("resume %s", m.spec.ID)
	m.cond.Broadcast()
	return m.save()
}

// snapshot writes memory and device state; half before they are durable.
func (m *machine) snapshot(ctx context.Context, snap driver.Snapshot, half func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.live(OpSnapshot); err != nil {
		return err
	}
	if m.state != Paused {
		m.host.violate("snapshot of %s, which is not paused", m.spec.ID)
		return mvm.Errorf(mvm.KindState, "snapshot %s: the VMM is %s, not paused", m.spec.ID, m.state)
	}
	nonce := rand.Text()
	err := m.seal(ctx, snap, nonce, func(op string) error {
		if op != "sync" {
			return nil
		}
		if err := m.unlocked(half); err != nil {
			return err
		}
		return m.live(OpSnapshotState)
	})
	if err == nil {
		err = removeMemory(m.spec)
	}
	if err != nil {
		return mvm.Explain("snapshot "+m.spec.ID, err)
	}
	m.loaded = nonce
	m.host.note("snapshot %s", m.spec.ID)
	return m.save()
}

// unlocked runs fn while mu, which is held, is not.
func (m *machine) unlocked(fn func() error) error {
	m.mu.Unlock()
	defer m.mu.Lock()
	return fn()
}

// describe is for Host.VMMs.
func (m *machine) describe() VMM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return VMM{ID: m.spec.ID, State: m.state, MemMiB: m.spec.MemMiB, RunDir: m.spec.RunDir,
		Memory: m.spec.Memory, Streams: len(m.conns), TAP: m.tap != nil, Limits: m.spec.Limits}
}
