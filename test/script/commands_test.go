package script_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"mvm"
	"mvm/internal/api"
)

// patience bounds every wait; a busy machine is slow.
const patience = 60 * time.Second

// host is a script's host: the processes that it started in the background.
type host struct {
	agent   *exec.Cmd
	adopted []*os.Process
	others  []*exec.Cmd
}

type hostKey struct{}

// end kills what the script left running.
func (h *host) end() {
	if h.agent != nil {
		_ = h.agent.Process.Kill()
		_ = h.agent.Wait()
	}
	for _, c := range h.others {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	for _, p := range h.adopted {
		_ = p.Kill()
	}
}

// mvm runs the program, which must succeed, or fail after a "!".
func run(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("mvm", args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("mvm %s: %v", strings.Join(args, " "), err)
	case err == nil && neg:
		ts.Fatalf("mvm %s succeeds", strings.Join(args, " "))
	}
}

// agent start|stop|kill|adopt runs the host's agent. stop ends it in an orderly way,
// kill with SIGKILL; adopt takes over one that a command started.
func agent(ts *testscript.TestScript, _ bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	if len(args) < 1 {
		ts.Fatalf("usage: agent start|stop|kill|adopt")
	}
	switch args[0] {
	case "start":
		h.start(ts, args[1:])
	case "stop", "kill":
		h.stop(ts, args[0] == "kill")
	case "adopt":
		ts.Check(ts.Exec("mvm", "node", "info", "-o", "json"))
		var info mvm.NodeInfo
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &info))
		p, err := os.FindProcess(info.PID)
		ts.Check(err)
		h.adopted = append(h.adopted, p)
	default:
		ts.Fatalf("agent %s: unknown", args[0])
	}
}

func (h *host) start(ts *testscript.TestScript, args []string) {
	if h.agent != nil {
		ts.Fatalf("the agent runs already")
	}
	h.agent = background(ts, "agent.log", append([]string{"agent", "serve"}, args...), false)
	c := api.Dial(ts.Getenv("MVM_SOCKET"))
	defer c.Close()
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := c.Version(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("agent does not answer: %v\n%s", err, ts.ReadFile("agent.log"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// background starts mvm with its output in the file, and on request with a stdin that
// has "typed" in it and stays open.
func background(ts *testscript.TestScript, file string, args []string, stdin bool) *exec.Cmd {
	log, err := os.OpenFile(ts.MkAbs(file), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ts.Check(err)
	defer log.Close()
	cmd := command(ts, args)
	cmd.Stdout, cmd.Stderr = log, log
	if !stdin {
		ts.Check(cmd.Start())
		return cmd
	}
	in, err := cmd.StdinPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	_, _ = io.WriteString(in, "typed\n") // one that reads no stdin may be gone
	return cmd
}

// command is mvm on the script's host.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	bin, err := lookIn(ts.Getenv("PATH"), "mvm")
	ts.Check(err)
	cmd := exec.Command(bin, args...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "MVM_CONFIG", "MVM_DATA_DIR", "MVM_RUN_DIR", "MVM_SOCKET", "MVM_KEY_FILE",
		"MVM_DRIVER", "MVM_NO_AUTOSTART", "MVM_API_LISTEN", "MVM_CERT_DIR", "MVM_REMOTE", "MVM_CERTS", "NO_COLOR", "TZ",
		"MVM_TRUSTED_KEYS", "MVM_PRODUCTION", "MVM_MASTER_KEY", "MVM_KEY_CREDENTIAL", "CREDENTIALS_DIRECTORY"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

func lookIn(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", errors.New(name + " is not in PATH")
}

func (h *host) stop(ts *testscript.TestScript, kill bool) {
	if h.agent == nil {
		ts.Fatalf("no agent runs")
	}
	cmd := h.agent
	h.agent = nil
	if kill {
		ts.Check(cmd.Process.Kill())
		_ = cmd.Wait()
		return
	}
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("agent ended with %v\n%s", err, ts.ReadFile("agent.log"))
	}
}

// exits CODE COMMAND... runs a command that must end with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	default:
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// capture NAME REGEXP puts what the last stdout matched into a variable: the first
// group, or the whole match.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture NAME REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("stdout has nothing that matches %s:\n%s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], m[len(m)-1])
}

// until REGEXP mvm ARG... runs mvm, whether or not it fails, until what it prints
// matches; until REGEXP FILE looks into a file.
func until(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || len(args) > 2 && args[1] != "mvm" {
		ts.Fatalf("usage: until REGEXP mvm ARG... | until REGEXP FILE")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var text []byte
		if len(args) == 2 {
			text, _ = os.ReadFile(ts.MkAbs(args[1]))
		} else {
			text, _ = command(ts, args[2:]).CombinedOutput()
		}
		if re.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nothing matches %s:\n%s", args[0], text)
		}
	}
}

// follow FILE ARG... runs mvm in the background with its output in the file; `follow
// interrupt CODE` sends the last one SIGINT and checks how it ends; `follow kill -1`,
// SIGKILL; `follow ends CODE` waits for it to end by itself.
func follow(ts *testscript.TestScript, _ bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	if len(args) < 2 {
		ts.Fatalf("usage: follow FILE ARG... | follow interrupt|kill CODE")
	}
	sig := map[string]os.Signal{"interrupt": os.Interrupt, "kill": os.Kill, "ends": syscall.Signal(0)}[args[0]]
	if sig == nil {
		cmd := background(ts, args[0], args[1:], true)
		h.others = append(h.others, cmd)
		return
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	cmd := h.others[len(h.others)-1]
	h.others = h.others[:len(h.others)-1]
	if args[0] != "ends" {
		ts.Check(cmd.Process.Signal(sig))
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	late.Stop()
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("%v ended with %d, want %d", cmd.Args, got, want)
	}
}

// untilexits CODE mvm ARG... runs mvm until it ends with the code, for what depends on how
// fast the machine is.
func untilexits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 || args[1] != "mvm" {
		ts.Fatalf("usage: untilexits CODE mvm ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; {
		cmd := command(ts, args[2:])
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() == want {
			ts.Check(os.WriteFile(ts.MkAbs("ended.log"), out, 0o600))
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("it never ends with %d, but with %d:\n%s", want, cmd.ProcessState.ExitCode(), out)
		}
	}
}

// nowhere TEXT PLACE... checks that no file of the places has the text, and the last
// output neither.
func nowhere(ts *testscript.TestScript, _ bool, args []string) {
	text := []byte(args[0])
	for _, out := range []string{"stdout", "stderr"} {
		if strings.Contains(ts.ReadFile(out), args[0]) {
			ts.Fatalf("%s has the text", out)
		}
	}
	for _, place := range args[1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(place), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			st, err := d.Info()
			if err != nil || st.Size() > 64<<20 {
				return err // a disk: sparse and empty with the fake driver
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, text) {
				ts.Fatalf("%s has the text", path)
			}
			return err
		}))
	}
}
