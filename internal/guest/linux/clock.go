package linux

import (
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm"
)

// SetClock sets the wall clock.
func (s *System) SetClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return mvm.Errorf(mvm.KindInternal, "set clock to %s: %w", t.UTC().Format(time.RFC3339Nano), err)
	}
	return nil
}

// StepClock steps the wall clock by the offset; the kernel does it at once, so no
// time is lost between reading and setting.
func (s *System) StepClock(by time.Duration) error {
	sec, nsec := int64(by/time.Second), int64(by%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	const setOffset, nano = 0x0100, 0x2000 // ADJ_SETOFFSET, ADJ_NANO
	tx := unix.Timex{Modes: setOffset | nano, Time: unix.Timeval{Sec: sec, Usec: nsec}}
	if _, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &tx); err != nil {
		return mvm.Errorf(mvm.KindInternal, "step clock by %s: %w", by, err)
	}
	return nil
}

// Uptime is the time since the kernel started, without what it slept through.
func (s *System) Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// maxEntropy bounds the bytes of one AddEntropy.
const maxEntropy = 4096

// AddEntropy credits the bytes to the random number generator and reseeds it. The
// first alone would not help a restored guest: the generator goes on from its old
// seed for up to five minutes.
func (s *System) AddEntropy(b []byte) error {
	if len(b) == 0 || len(b) > maxEntropy {
		return mvm.Errorf(mvm.KindInvalid, "add entropy: %d bytes are not in 1..%d", len(b), maxEntropy)
	}
	f, err := s.random()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "add entropy: %w", err)
	}
	// struct rand_pool_info: bits of entropy, size in bytes, the bytes.
	pool := make([]uint32, 2+(len(b)+3)/4)
	pool[0], pool[1] = uint32(len(b)*8), uint32(len(b))
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&pool[2])), len(b)), b)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0])))
	runtime.KeepAlive(pool)
	clear(pool)
	if errno != 0 {
		return mvm.Errorf(mvm.KindInternal, "add entropy: RNDADDENTROPY: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), reseed, 0); errno != 0 {
		return mvm.Errorf(mvm.KindInternal, "add entropy: RNDRESEEDCRNG: %w", errno)
	}
	return nil
}

// random is the kernel's generator, opened once: a wake has no time to look it up.
func (s *System) random() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.urandom == nil {
		f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		s.urandom = f
	}
	return s.urandom, nil
}

// reseed is RNDRESEEDCRNG, _IO('R', 0x07).
const reseed = 0x5207

// BootID is the kernel's random boot id.
func (s *System) BootID() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bootID == "" {
		b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return "", mvm.Errorf(mvm.KindInternal, "read boot id: %w", err)
		}
		s.bootID = strings.TrimSpace(string(b))
	}
	return s.bootID, nil
}

// cmdline returns the value of a kernel argument, "" when it is not there.
func cmdline(all, name string) string {
	for arg := range strings.FieldsSeq(all) {
		if v, ok := strings.CutPrefix(arg, name+"="); ok {
			return v
		}
	}
	return ""
}
