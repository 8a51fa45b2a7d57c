package secrets_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/secrets"
)

func TestKeyIsCreatedOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "master.key")
	first, err := secrets.LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != 0o600 || st.Size() != secrets.KeySize {
		t.Errorf("got mode %v and %d bytes, %v; want a regular file, 0600, 32 bytes", st.Mode(), st.Size(), err)
	}
	second, err := secrets.LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Open("acme", 1, seal(t, first, "acme", 1)); err != nil {
		t.Errorf("the second load gave another key: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("got %v in the folder, want the key only", left)
	}
}

func TestAgentsThatStartAtOnceAgreeOnOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	keys := make([]*secrets.Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := secrets.LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	sealed := seal(t, keys[0], "acme", 1)
	for _, k := range keys {
		if _, err := k.Open("acme", 1, sealed); err != nil {
			t.Error(err)
		}
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	content := bytes.Repeat([]byte("K"), secrets.KeySize)
	write := func(data []byte, mode os.FileMode) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				return err
			}
			return os.Chmod(path, mode)
		}
	}
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"readable for the group": {write(content, 0o640), "gives other users access"},
		"readable for all":       {write(content, 0o604), "gives other users access"},
		"writable for the group": {write(content, 0o620), "gives other users access"},
		"too short":              {write(content[:31], 0o600), "32 bytes"},
		"too long":               {write(append(content, 'K'), 0o600), "more than 32 bytes"},
		"empty":                  {write(nil, 0o600), "32 bytes"},
		"a folder":               {func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		"a fifo":                 {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "not a regular file"},
		"a symlink": {func(p string) error {
			if err := write(content, 0o600)(p + ".real"); err != nil {
				return err
			}
			return os.Symlink(p+".real", p)
		}, "symlink"},
		"a symlink to nothing":         {func(p string) error { return os.Symlink(p+".none", p) }, "symlink"},
		"in a folder others can write": {func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "write to its folder"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "master.key")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			_, err := secrets.LoadOrCreateKey(path)
			if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a refusal that says %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "KKKK") {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
}

func TestKeyOfAnotherUserIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
	path := filepath.Join(t.TempDir(), "master.key")
	if _, err := secrets.LoadOrCreateKey(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 0); err != nil {
		t.Fatal(err)
	}
	_, err := secrets.LoadOrCreateKey(path)
	if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("got %v, want a refusal", err)
	}
}
