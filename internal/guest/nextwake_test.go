package guest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// put writes the file as a workload should: by rename.
func (m *machine) put(text string) {
	m.t.Helper()
	tmp := filepath.Join(m.paths.Run, ".next")
	writeFile(m.t, tmp, text)
	if err := os.Rename(tmp, filepath.Join(m.paths.Run, "next-wake")); err != nil {
		m.t.Fatal(err)
	}
}

// The host is told of the workload's next wake when it changes, and before a sleep.
func TestNextWakeIsTold(t *testing.T) {
	host := &toldHost{}
	m := newMachineWith(t, host, workload.Service{Name: "app", Command: sh("exec sleep 1000")})
	m.mustConfigure(boot())
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	m.put(at.Format(time.RFC3339) + "\n")
	host.await(t, "the next wake", func(s guestproto.Status) bool { return s.NextWake.Equal(at) })

	later := at.Add(time.Hour)
	m.put(strconv.FormatInt(later.UnixMilli(), 10))
	host.await(t, "another next wake", func(s guestproto.Status) bool { return s.NextWake.Equal(later) })
	if got := m.sleepPrep(1); !got.Success || !got.NextWake.Equal(later) {
		t.Errorf("before a sleep: %+v, want %v", got, later)
	}

	if err := os.Remove(filepath.Join(m.paths.Run, "next-wake")); err != nil {
		t.Fatal(err)
	}
	host.await(t, "no next wake", func(s guestproto.Status) bool { return s.NextWake.IsZero() })
}

// A file that is none, or has no time, is none; whatever it is, the guest reads little of it.
func TestNextWakeOfAnyFile(t *testing.T) {
	m := newMachine(t)
	path := filepath.Join(m.paths.Run, "next-wake")
	now := time.Now()
	at := now.Add(time.Hour).Truncate(time.Second)
	text := at.Format(time.RFC3339)
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, text)
	for name, c := range map[string]struct {
		make func() error
		want time.Time
	}{
		"a time":          {func() error { return os.WriteFile(path, []byte(text), 0o600) }, at},
		"a time in ms":    {func() error { return os.WriteFile(path, fmt.Appendf(nil, "%d\n", at.UnixMilli()), 0o600) }, at},
		"an overdue time": {func() error { return os.WriteFile(path, []byte(at.Add(-2*time.Hour).Format(time.RFC3339)), 0o600) }, at.Add(-2 * time.Hour)},
		"nothing":         {func() error { return os.WriteFile(path, nil, 0o600) }, time.Time{}},
		"a line end":      {func() error { return os.WriteFile(path, []byte("\n"), 0o600) }, time.Time{}},
		"words":           {func() error { return os.WriteFile(path, []byte("tomorrow"), 0o600) }, time.Time{}},
		"two lines":       {func() error { return os.WriteFile(path, []byte(text+"\n"+text), 0o600) }, time.Time{}},
		"a sign":          {func() error { return os.WriteFile(path, fmt.Appendf(nil, "+%d", at.UnixMilli()), 0o600) }, time.Time{}},
		"many digits":     {func() error { return os.WriteFile(path, []byte(strings.Repeat("9", 40)), 0o600) }, time.Time{}},
		"a large file":    {func() error { return os.WriteFile(path, []byte(text+strings.Repeat("\n", 1<<20)), 0o600) }, time.Time{}},
		"far ahead":       {func() error { return os.WriteFile(path, []byte("9999-01-01T00:00:00Z"), 0o600) }, time.Time{}},
		"long ago":        {func() error { return os.WriteFile(path, []byte("2000-01-01T00:00:00Z"), 0o600) }, time.Time{}},
		"a link":          {func() error { return os.Symlink(secret, path) }, time.Time{}},
		"a pipe":          {func() error { return unix.Mkfifo(path, 0o600) }, time.Time{}},
		"a folder":        {func() error { return os.Mkdir(path, 0o700) }, time.Time{}},
		"nothing at all":  {func() error { return nil }, time.Time{}},
		"a time with zone": {func() error {
			return os.WriteFile(path, []byte(at.In(time.FixedZone("", 7200)).Format(time.RFC3339)), 0o600)
		}, at},
		"a time in seconds": {func() error { return os.WriteFile(path, fmt.Appendf(nil, "%d", at.Unix()), 0o600) }, time.Time{}},
	} {
		if err := c.make(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := m.sleepPrep(1).NextWake; !got.Equal(c.want) {
			t.Errorf("%s: next wake %v, want %v", name, got, c.want)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// A service may say it beside whether it is busy; the earliest time counts, and a service
// that starts anew has said nothing.
func TestNextWakeOfAService(t *testing.T) {
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	var says atomic.Value
	says.Store(at.Format(time.RFC3339))
	status := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"busy":false,"next_wake":%q}`, says.Load())
	}))
	t.Cleanup(status.Close)
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Busy: status.URL})
	m.mustConfigure(boot())
	m.awaitState("app", "ready")
	m.put(at.Add(time.Minute).Format(time.RFC3339))
	if got := m.sleepPrep(5).NextWake; !got.Equal(at) {
		t.Errorf("next wake %v, want the service's %v", got, at)
	}
	says.Store("")
	if got := m.sleepPrep(5).NextWake; !got.Equal(at.Add(time.Minute)) {
		t.Errorf("next wake %v, want the file's %v", got, at.Add(time.Minute))
	}
}
