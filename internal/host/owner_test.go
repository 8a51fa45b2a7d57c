package host_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli"
	"mvm/internal/host"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// options are an agent's whose things are all in the folder.
func options(dir string) host.Options {
	return host.Options{Version: api.Version{Version: "test"}, AgentConfig: manifest.AgentConfig{
		Socket: filepath.Join(dir, "s"), DataDir: filepath.Join(dir, "d"), RunDir: filepath.Join(dir, "r"), KeyFile: filepath.Join(dir, "k"),
		Driver: "fake", NodeID: "test", LogLevel: "error", LogFormat: "text"}}
}

// serve runs an agent until the function that it returns is called.
func serve(t *testing.T, o host.Options) (*api.Client, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- host.Serve(ctx, o, nil) }()
	c := api.Dial(o.Socket)
	testenv.Eventually(t, time.Minute, func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the agent ended: %v", err)
		default:
		}
		_, err := c.Version(t.Context())
		return err
	})
	stop := func() {
		c.Close()
		cancel()
		must(t, <-ended)
	}
	return c, stop
}

// all lists every file below the folder with what it is.
func all(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			b.WriteString(p + " " + info.Mode().String() + "\n")
		}
		return err
	}))
	return b.String()
}

// An agent whose folders are another's exits with 4 and touches nothing, whichever driver
// it has and by whatever path it comes.
func TestAnAgentThatOwnsNothing(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.Dir(t)
	testenv.NothingLeft(t, dir)
	first := filepath.Join(dir, "1")
	o := options(first)
	c, stop := serve(t, o)
	d, err := manifest.ParseDeployment("test.toml", []byte("[tenant]\nid = \"acme\"\n[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\nmem_mib = 128\ndesired_running = 1\n"),
		func(string) ([]byte, error) { return nil, os.ErrNotExist })
	must(t, err)
	_, err = c.Apply(t.Context(), d, mvm.ApplyOptions{}, nil)
	must(t, err)
	must(t, os.Symlink(first, filepath.Join(dir, "link")))

	others := map[string]func(*host.Options){
		"the same run dir":            func(x *host.Options) { x.RunDir = o.RunDir },
		"the same run dir by a link":  func(x *host.Options) { x.RunDir = filepath.Join(dir, "link", "r") },
		"the same data dir":           func(x *host.Options) { x.DataDir = o.DataDir },
		"the same data dir by a link": func(x *host.Options) { x.DataDir = filepath.Join(dir, "link", "d") },
		"both":                        func(x *host.Options) { x.DataDir, x.RunDir = o.DataDir, o.RunDir },
		"all":                         func(x *host.Options) { *x = o },
	}
	try := func(while string) {
		var wg sync.WaitGroup
		before := all(t, first)
		for name, change := range others {
			for _, driver := range []string{"fake", "qemu"} {
				if while == "it does not run" && !strings.Contains(name, "the same run dir") {
					continue // its own data dir: that is the first agent again
				}
				wg.Go(func() {
					x := options(filepath.Join(dir, strings.ReplaceAll(while+name+driver, " ", "-")))
					change(&x)
					x.Driver = driver
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					err := host.Serve(ctx, x, nil)
					if code := cli.ExitCode(err); code != 4 || !strings.Contains(err.Error(), first) {
						t.Errorf("%s, %s, %s: it ended with code %d: %v", while, name, driver, code, err)
					}
				})
			}
		}
		wg.Wait()
		if after := all(t, first); after != before {
			t.Errorf("%s: they changed what the first one has from\n%s\nto\n%s", while, before, after)
		}
	}
	try("it runs")
	is, err := c.Instances(t.Context(), mvm.Address{})
	if err != nil || len(is) != 1 || is[0].State != mvm.StateRunning {
		t.Errorf("the first agent has %+v, %v", is, err)
	}
	stop()
	try("it does not run")
	c, stop = serve(t, o)
	defer stop()
	if _, err := c.Tenants(t.Context()); err != nil {
		t.Error(err)
	}
}
