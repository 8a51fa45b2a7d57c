// Package script_test runs the files of this folder: the command line's manual, each
// on a host of its own with the fake driver, through the real program.
package script_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mvm/internal/testenv"
)

func TestManual(t *testing.T) {
	bin := filepath.Dir(testenv.Mvm(t))
	testscript.Run(t, testscript.Params{
		Dir: ".", RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error { return setup(env, bin) },
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("condition %q is unknown", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mvm": run, "agent": agent, "exits": exits, "capture": capture, "until": until, "untilexits": untilexits, "nowhere": nowhere, "curls": curls, "follow": follow, "fetch": fetch, "documented": documented,
		},
	})
}

// setup gives the script a host: folders, a socket and a key of its own.
func setup(env *testscript.Env, bin string) error {
	run, err := os.MkdirTemp("/tmp", "mvm") // short, for paths of sockets
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(run) })
	config := filepath.Join(run, "agent.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		return err
	}
	for name, v := range map[string]string{
		"MVM_CONFIG": config, "MVM_DATA_DIR": filepath.Join(env.WorkDir, "data"), "MVM_RUN_DIR": run,
		"MVM_SOCKET": filepath.Join(run, "agent.sock"), "MVM_KEY_FILE": filepath.Join(run, "master.key"),
		"MVM_DRIVER": "fake", "LOOPBACK": loopback(), "MVM_NO_AUTOSTART": "1", "NO_COLOR": "1", "TZ": "UTC",
		"PATH": bin + string(filepath.ListSeparator) + env.Getenv("PATH"),
	} {
		env.Setenv(name, v)
	}
	h := &host{}
	env.Values[hostKey{}] = h
	env.Defer(h.end)
	return nil
}

// loopback is an address of this process, for ports that a script must name: other tests
// run on the machine.
func loopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>14&127, pid>>7&127, 1+pid&127)
}
