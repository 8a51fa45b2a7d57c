package fake

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// maxGuestBytes bounds what a guest keeps in memory, and on disk.
const maxGuestBytes = 8 << 20

// maxLogLines bounds what a guest keeps of its log.
const maxLogLines = 200

// guestState is a guest's memory.
type guestState struct {
	BootID      string                `json:"boot_id"`
	Booted      time.Time             `json:"booted"`
	PausedAt    time.Time             `json:"paused_at,omitzero"`
	ClockOffset time.Duration         `json:"clock_offset_ns"`
	Configured  time.Time             `json:"configured,omitzero"` // first
	Config      *guestproto.Configure `json:"config,omitempty"`    // without secrets and entropy
	Secrets     map[string][]byte     `json:"secrets,omitempty"`
	Files       map[string][]byte     `json:"files,omitempty"`
	Saved       map[string]saved      `json:"saved,omitempty"` // integrations
	Held        bool                  `json:"held,omitempty"`  // its service holds still
	Counter     int                   `json:"counter"`
	Gated       bool                  `json:"gated"` // configured since the vCPUs began to run
	Log         []guestproto.LogLine  `json:"log,omitempty"`
	LogTotal    int                   `json:"log_total"` // lines ever
	Looks       uint64                `json:"looks"`     // at its services
}

func bootGuest() guestState {
	g := guestState{BootID: uuid(), Booted: time.Now(), Files: map[string][]byte{}}
	g.log("mvm", "guest booted")
	return g
}

// uuid is a random id in the kernel's form.
func uuid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// now is the guest's clock.
func (g *guestState) now() time.Time { return time.Now().Add(g.ClockOffset) }

func (g *guestState) log(stream, text string) {
	g.LogTotal++
	g.Log = append(g.Log, guestproto.LogLine{Seq: uint64(g.LogTotal), Time: g.now(), Service: "main", Stream: stream, Text: text})
	if len(g.Log) > maxLogLines {
		g.Log = slices.Clone(g.Log[len(g.Log)-maxLogLines:])
	}
}

// configure applies what the host pushed and answers.
func (g *guestState) configure(c guestproto.Configure, b Behavior) guestproto.ConfigureAck {
	if b.NackConfigure != "" {
		return guestproto.ConfigureAck{Detail: &b.NackConfigure, BootID: g.BootID, UnixNanos: g.now().UnixNano()}
	}
	if g.Config != nil && c.Generation < g.Config.Generation {
		detail := "it was overtaken"
		return guestproto.ConfigureAck{Detail: &detail, BootID: g.BootID, UnixNanos: g.now().UnixNano()}
	}
	if c.UnixNanos != 0 {
		g.ClockOffset = time.Until(time.Unix(0, c.UnixNanos))
	}
	if (c.Reason == "boot" || c.Reason == "wake") && (c.UnixNanos == 0 || len(c.Entropy) < 32) {
		detail := "no clock or less than 32 bytes of entropy at " + c.Reason
		return guestproto.ConfigureAck{Detail: &detail, BootID: g.BootID, UnixNanos: g.now().UnixNano()}
	}
	told := g.Config == nil || maps.EqualFunc(g.Secrets, c.Secrets, bytes.Equal)
	g.Secrets = maps.Clone(c.Secrets)
	c.Secrets, c.Entropy = nil, nil
	g.Config, g.Gated = &c, true
	if g.Configured.IsZero() {
		g.Configured = time.Now()
	}
	g.log("mvm", "configured: "+c.Reason)
	ack := guestproto.ConfigureAck{Success: true, Generation: c.Generation, BootID: g.BootID,
		UnixNanos: g.now().Add(b.ClockError).UnixNano(), Suspends: b.Suspends, Settling: g.Held || !told && b.Untold != ""}
	if b.StaleSecrets {
		ack.Generation--
	}
	return ack
}

func (g *guestState) status(b Behavior) guestproto.Status {
	s := guestproto.Status{NextWake: b.NextWake, ActiveRequests: b.Active, UptimeSecs: time.Since(g.Booted).Seconds()}
	svc := guestproto.ServiceStatus{Name: "main", State: "ready", PID: 42}
	switch {
	case g.Config == nil:
		s.Detail, svc.State, svc.PID = "not configured", "starting", 0
	case b.NeverReady || time.Since(g.Configured) < b.ReadyAfter:
		s.Detail, svc.State = "service main is starting", "starting"
	default:
		s.Ready = true
	}
	s.Services = []guestproto.ServiceStatus{svc}
	if len(b.Services) > 0 {
		s.Services = b.Services
		up := func(svc guestproto.ServiceStatus) bool { return svc.State == "ready" || svc.State == "done" }
		s.Ready = g.Config != nil && !slices.ContainsFunc(b.Services, func(svc guestproto.ServiceStatus) bool { return !up(svc) })
	}
	for _, c := range b.Channels {
		s.Channels = append(s.Channels, c.ChannelStatus)
	}
	g.Looks++
	if !b.NoHealth {
		s.Version = g.Looks
	}
	return s
}

// change says what of a guest an action changed.
type change int

const (
	unchanged change = iota
	inMemory
	onDisk
)

// withGuest runs fn on the guest when its vCPUs run, and saves what it changed.
// io.EOF says that the VMM is gone.
func (m *machine) withGuest(fn func(g *guestState) (change, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.state == Paused || m.state == Starting {
		m.cond.Wait()
	}
	if m.state == Gone {
		return io.EOF
	}
	changed, err := fn(&m.guest)
	if err != nil || changed == unchanged {
		return err
	}
	if changed == onDisk {
		err = m.saveDisk()
	}
	return errors.Join(err, m.save())
}

// running waits until the guest runs, false when the VMM is gone.
func (m *machine) running() bool {
	return m.withGuest(func(*guestState) (change, error) { return unchanged, nil }) == nil
}

// file finds the map that a guest's path is in.
func (m *machine) file(path string) (map[string][]byte, change) {
	if m.guest.Files == nil {
		m.guest.Files = map[string][]byte{}
	}
	if strings.HasPrefix(path, "/data/") {
		return m.disk, onDisk
	}
	return m.guest.Files, inMemory
}

// read returns a guest's file.
func (m *machine) read(path string) ([]byte, bool) {
	switch g := &m.guest; path {
	case "/proc/sys/kernel/random/boot_id":
		return []byte(g.BootID + "\n"), true
	case "/etc/hostname":
		if g.Config == nil {
			return nil, false
		}
		return []byte(g.Config.Hostname + "\n"), true
	}
	if name, ok := strings.CutPrefix(path, "/run/secrets/"); ok {
		b, ok := m.guest.Secrets[name]
		return b, ok
	}
	files, _ := m.file(path)
	b, ok := files[path]
	return b, ok
}

// write replaces a guest's file, within the bound.
func (m *machine) write(path string, b []byte) (change, error) {
	files, where := m.file(path)
	total := len(b)
	for k, v := range files {
		if k != path {
			total += len(k) + len(v)
		}
	}
	if total > maxGuestBytes {
		return unchanged, mvm.Errorf(mvm.KindQuota, "write %s: no space left", path)
	}
	files[path] = b
	return where, nil
}

// stream makes a stream whose guest side fn serves in its own goroutine. mu is held.
func (m *machine) stream(fn func(net.Conn)) net.Conn {
	hostSide, guestSide := net.Pipe()
	m.conns[guestSide] = struct{}{}
	m.handlers.Add(1)
	m.host.handlers.Add(1)
	go func() {
		defer m.host.handlers.Done()
		defer m.handlers.Done()
		defer m.forget(guestSide)
		fn(guestSide)
	}()
	return hostSide
}

func (m *machine) forget(c net.Conn) {
	_ = c.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
}
