package guest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"mvm/internal/guest/workload"
)

func TestSecretsFiles(t *testing.T) {
	m := newMachine(t)
	c := boot()
	c.Secrets = map[string][]byte{"token": []byte("one"), "telegram/KEY": []byte("k")}
	m.mustConfigure(c)
	for path, want := range map[string]os.FileMode{"": 0o500, "token": 0o400, "telegram": 0o500, "telegram/KEY": 0o400} {
		st, err := os.Stat(filepath.Join(m.paths.Secrets, path))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("secret %q: %v, %v, want mode %o", path, st, err, want)
		}
	}
	before, err := os.Stat(m.paths.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	m.mustConfigure(c)
	if after, err := os.Stat(m.paths.Secrets); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same secrets again made a new folder: %v", err)
	}
	c.Secrets = map[string][]byte{"token": []byte("two")}
	m.mustConfigure(c)
	if got := readFile(t, m.paths.Secrets+"/token"); got != "two" {
		t.Errorf("token is %q after the rotation", got)
	}
	if _, err := os.Stat(m.paths.Secrets + "/telegram"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed secret is still there: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(m.paths.Secrets))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the secrets there is %v, %v", left, err)
	}
}

func TestSecretsBelongToTheWorkload(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving files to other users needs root")
	}
	for _, c := range []struct {
		name     string
		users    []string
		uid, gid uint32
		perm     os.FileMode
	}{
		{"root only", []string{"", "root"}, 0, 0, 0o400},
		{"one user", []string{"", "nobody"}, 65534, 65534, 0o400},
		{"two users", []string{"nobody", "daemon"}, 0, 5252, 0o440},
	} {
		var services []workload.Service
		for i, u := range c.users {
			services = append(services, workload.Service{Name: fmt.Sprintf("s%d", i), User: u, Dir: "/", Restart: "never", Command: sh("true")})
		}
		m := newMachine(t, services...)
		cfg := boot()
		cfg.Secrets = map[string][]byte{"token": []byte("x")}
		m.mustConfigure(cfg)
		st, err := os.Stat(m.paths.Secrets + "/token")
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if sys.Uid != c.uid || sys.Gid != c.gid || st.Mode().Perm() != c.perm {
			t.Errorf("%s: %d:%d %o, want %d:%d %o", c.name, sys.Uid, sys.Gid, st.Mode().Perm(), c.uid, c.gid, c.perm)
		}
	}
}

// Every service must be able to read what it was given.
func TestServicesReadSecrets(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running services as other users needs root")
	}
	read := func(name, user string) workload.Service {
		return workload.Service{Name: name, User: user, Dir: "/", Restart: "never",
			Command: sh(`cat "$SECRETS/token" && echo " $TOKEN $MISSING."`), SecretEnv: map[string]string{"TOKEN": "token", "MISSING": "none"}}
	}
	m := newMachine(t, read("a", "nobody"), read("b", "daemon"), read("c", ""))
	cfg := boot()
	cfg.Secrets = map[string][]byte{"token": []byte("sekrit\n")}
	cfg.Env = map[string]string{"SECRETS": m.paths.Secrets}
	m.mustConfigure(cfg)
	for _, name := range []string{"a", "b", "c"} {
		eventually(t, "service "+name+" has ended", func() bool { s := m.service(name).State; return s == "done" || s == "failed" })
		lines := m.logs(logsOf(name))
		if len(lines) != 2 || lines[0].Text != "sekrit" || lines[1].Text != " sekrit ." {
			t.Errorf("service %s wrote %v", name, lines)
		}
	}
}

// A reader sees all of one generation or of another, never some of both.
func TestSecretsSwapIsWhole(t *testing.T) {
	m := newMachine(t)
	set := func(gen int) {
		c := boot()
		v := []byte(fmt.Sprint(gen))
		c.Reason, c.Secrets = "update", map[string][]byte{"a": v, "z": v}
		m.mustConfigure(c)
	}
	set(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	pairs := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			root, err := os.OpenRoot(m.paths.Secrets)
			if err != nil {
				t.Errorf("the folder was not there: %v", err)
				return
			}
			a, errA := root.ReadFile("a")
			z, errZ := root.ReadFile("z")
			root.Close()
			if errA == nil && errZ == nil {
				if pairs++; string(a) != string(z) {
					t.Errorf("read a=%s and z=%s", a, z)
				}
			}
		}
	})
	for gen := 1; gen <= 100; gen++ {
		set(gen)
	}
	close(stop)
	wg.Wait()
	if pairs == 0 {
		t.Error("no pair was read")
	}
}
