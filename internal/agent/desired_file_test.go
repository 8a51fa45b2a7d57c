package agent_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// following is a host that follows a file with a desired state, on a virtual clock.
func following(t *testing.T, test func(t *testing.T, h *host, write func(string))) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.nodeID, h.every, h.file = "node-1", 30*time.Second, filepath.Join(t.TempDir(), "host.json")
		h.listen = func(*sys.Folder, string) (net.Listener, error) { return newDeafListener(), nil }
		n := 0
		write := func(text string) {
			t.Helper()
			n++ // the file's time is the host's, which is not the test's
			at := time.Now().Add(time.Duration(n) * time.Second)
			if err := os.WriteFile(h.file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(h.file, at, at); err != nil {
				t.Fatal(err)
			}
		}
		defer func() { h.stop() }()
		test(t, h, write)
	})
}

func (h *host) has(tenant string) bool {
	_, _, err := h.a.Tenant(ctx(h.t), tenant)
	return err == nil
}

func TestAFileIsFollowed(t *testing.T) {
	following(t, func(t *testing.T, h *host, write func(string)) {
		write(string(state("node-1", "one")))
		h.start()
		settled(5 * time.Second)
		write(string(state("node-1", "two")))
		settled(5 * time.Second)
		if !h.has("one") || !h.has("two") {
			t.Errorf("the file's tenants are not there: one %t, two %t", h.has("one"), h.has("two"))
		}
		write("{")
		settled(time.Hour)
		if n := strings.Count(h.logged(), "is not in force"); n != 1 {
			t.Errorf("a broken file was logged %d times, want once", n)
		}
	})
}

// A file that is refused for what may pass is taken up once that has passed.
func TestARefusedFileIsTriedAgain(t *testing.T) {
	following(t, func(t *testing.T, h *host, write func(string)) {
		h.start()
		secret := func(v string) {
			t.Helper()
			if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte(v)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.a.CreateTenant(ctx(t), mvm.TenantSpec{ID: "acme"}); err != nil {
			t.Fatal(err)
		}
		secret("one")
		doc, err := h.a.Desired(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		pinned := strings.Replace(string(doc), `"tenant_id": "acme"`, `"tenant_id": "acme", "pinned": true`, 1)
		secret("two")
		write(pinned)
		is := func() bool {
			got, _, err := h.a.Tenant(ctx(t), "acme")
			return err == nil && got.Pinned
		}
		settled(10 * time.Minute)
		if n := strings.Count(h.logged(), "do not match secrets_hash"); is() || n != 1 {
			t.Errorf("with other secrets: in force %t, logged %d times, want once", is(), n)
		}
		secret("one")
		settled(7 * time.Minute)
		if !is() {
			t.Error("the file is not in force though nothing is in its way any more")
		}
	})
}

// After a restart what was kept last is in force, not a file that is as it was.
func TestAnOldFileDoesNotOvertakeAPush(t *testing.T) {
	following(t, func(t *testing.T, h *host, write func(string)) {
		write(string(pruning("node-1", "file")))
		h.start()
		settled(5 * time.Second)
		if !h.has("file") {
			t.Fatal("the file is not in force")
		}
		if err := h.keep(pruning("node-1", "pushed")); err != nil {
			t.Fatal(err)
		}
		h.stop()
		h.start()
		settled(2 * time.Minute)
		write(string(pruning("node-1", "file"))) // written again, with the same content
		settled(2 * time.Minute)
		if h.has("file") || !h.has("pushed") {
			t.Errorf("after a restart the old file is in force: file %t, pushed %t", h.has("file"), h.has("pushed"))
		}
		write(string(pruning("node-1", "newer")))
		settled(time.Minute)
		if !h.has("newer") || h.has("pushed") {
			t.Error("another content of the file is not in force")
		}
	})
}
