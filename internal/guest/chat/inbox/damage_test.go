package inbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/testenv"
)

// kept is a file with 40 messages, of which some are delivered and some set aside.
func kept(t *testing.T) (file []byte, last int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inbox.db")
	b := open(t, path, inbox.Limits{})
	for i := range 40 {
		m := message(fmt.Sprint(i%4), fmt.Sprint("m", i))
		m.Body = bytes.Repeat([]byte{byte('a' + i%26)}, 100*i)
		put(t, b, m)
	}
	for i, e := range b.Entries("") {
		var err error
		switch i % 5 {
		case 0:
			err = b.Done(e.Number)
		case 1:
			err = b.SetAside(e.Number, "no")
		}
		if err != nil {
			t.Fatal(err)
		}
		last = e.Number
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file, last
}

// TestDamagedFiles: whatever is in the file, the inbox opens and works. Either all that was
// kept is there, and what of it is damaged is told when it is read, or the file is set aside
// and said to be.
func TestDamagedFiles(t *testing.T) {
	good, last := kept(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	damages := map[string]func(b []byte) []byte{
		"bit":   func(b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b },
		"cut":   func(b []byte) []byte { return b[:rnd.IntN(len(b))] },
		"zeros": func(b []byte) []byte { at := rnd.IntN(len(b)); clear(b[at:min(len(b), at+4096)]); return b },
		"noise": func(b []byte) []byte {
			for i := rnd.IntN(len(b)); i < len(b) && rnd.IntN(300) > 0; i++ {
				b[i] = byte(rnd.Uint32())
			}
			return b
		},
		"page over another": func(b []byte) []byte {
			pages := len(b) / 4096
			from, to := rnd.IntN(pages), rnd.IntN(pages)
			copy(b[to*4096:(to+1)*4096], b[from*4096:])
			return b
		},
		"empty":    func(b []byte) []byte { return nil },
		"no inbox": func(b []byte) []byte { return []byte("hello") },
	}
	setAside, told := 0, 0
	for name, damage := range damages {
		for n := range 15 {
			dir := t.TempDir()
			path := filepath.Join(dir, "inbox.db")
			if err := os.WriteFile(path, damage(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := inbox.Open(path, inbox.Options{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatalf("%s %d: %v", name, n, err)
			}
			files, err := filepath.Glob(path + ".damaged-*")
			if (b.Damage() != "") != (len(files) == 1) || err != nil {
				t.Errorf("%s %d: %d files are set aside, told: %q", name, n, len(files), b.Damage())
			}
			if b.Damage() != "" {
				setAside++
			}
			for _, e := range b.Entries("") {
				if body, err := b.Body(e.Number); err != nil {
					told++
				} else if len(body) != e.Size || len(bytes.Trim(body, string(body[:min(1, len(body))]))) > 0 {
					t.Errorf("%s %d: message %d has another body", name, n, e.Number)
				}
			}
			if _, err := b.Put(message("new", "new")); err == nil {
				all := b.Entries("")
				if got := all[len(all)-1]; got.ID != "new" || got.Number <= last && len(files) > 0 {
					t.Errorf("%s %d: the new message is %+v", name, n, got)
				}
			} else if !mvm.IsKind(err, mvm.KindInternal) {
				t.Errorf("%s %d: %v", name, n, err)
			} else if _, err := b.Put(message("new", "new")); err != nil { // what was found out meanwhile counts
				t.Errorf("%s %d: %v", name, n, err)
			}
			if err := b.Close(); err != nil {
				t.Errorf("%s %d: %v", name, n, err)
			}
		}
	}
	t.Logf("%d files were set aside, %d bodies were damaged", setAside, told)
}

// TestFileThatKillsIsSetAside: a file on which the process dies every time is not opened for
// ever.
func TestFileThatKillsIsSetAside(t *testing.T) {
	good, _ := kept(t)
	path := filepath.Join(t.TempDir(), "inbox.db")
	attempts := func(n int) *inbox.Inbox {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, good, 0o600), os.WriteFile(path+".opening", []byte(strings.Repeat(".", n)), 0o600)); err != nil {
			t.Fatal(err)
		}
		return open(t, path, inbox.Limits{})
	}
	if b := attempts(4); b.Damage() != "" || len(b.Entries("")) == 0 {
		t.Errorf("after 4 attempts: %q", b.Damage())
	} else if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b := attempts(5); !strings.Contains(b.Damage(), "5 attempts") || len(b.Entries("")) != 0 {
		t.Errorf("after 5 attempts: %q", b.Damage())
	} else if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b := open(t, path, inbox.Limits{}); b.Damage() != "" {
		t.Errorf("opened again: %q", b.Damage())
	}
}

// TestDamagedFilesAreBounded: a disk that damages the file again and again is not filled
// with what is set aside.
func TestDamagedFilesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	for range 5 {
		if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(t, path, inbox.Limits{}).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := filepath.Glob(path + ".damaged-*"); err != nil || len(files) != 2 {
		t.Errorf("set aside: %v, %v", files, err)
	}
}

// TestFullDisk: on a full disk nothing is kept and all is told; what is kept can be
// delivered, which makes room again; space that comes is used.
func TestFullDisk(t *testing.T) {
	dir := testenv.SmallDisk(t, 6<<10)
	path := filepath.Join(dir, "inbox.db")
	b := open(t, path, inbox.Limits{Chat: 10_000})
	n := 0
	fill := func(size int) (err error) {
		for ; err == nil; n++ {
			m := message("1", fmt.Sprint("m", n))
			m.Body = make([]byte, size)
			_, err = b.Put(m)
		}
		n--
		return err
	}
	err := fill(50_000)
	_ = fill(100)
	if !mvm.IsKind(err, mvm.KindUnavailable) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "data_disk_mib") {
		t.Fatalf("a full disk: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "others"), make([]byte, 6<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	all := b.Entries("")
	if len(all) != n {
		t.Errorf("%d are kept, %d were acknowledged", len(all), n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, inbox.Limits{Chat: 10_000})
	for _, e := range all {
		if body, err := b.Body(e.Number); err != nil || len(body) != e.Size {
			t.Errorf("body: %d, %v", len(body), err)
		}
		if err := errors.Join(b.Failed(e.Number, 1, 0, "no"), b.Done(e.Number)); err != nil {
			t.Fatalf("deliver on a full disk: %v", err)
		}
	}
	for i := range 50 { // the file has room, whatever the disk has
		m := message("1", fmt.Sprint("again", i))
		m.Body = make([]byte, 50_000)
		put(t, b, m)
	}
	if err := os.Remove(filepath.Join(dir, "others")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		m := message("1", fmt.Sprint("more", i))
		m.Body = make([]byte, 50_000)
		put(t, b, m)
	}
}
