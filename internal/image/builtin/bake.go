package builtin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image/boot"
)

// bakeTimeout bounds the one start of OpenClaw during a build.
const bakeTimeout = 3 * time.Minute

const (
	cacheDir = openclawDir + "/compile-cache"
	bakeDir  = "tmp/bake"
)

const (
	nodePath  = "/" + openclawDir + "/bin/node"
	entryPath = "/" + openclawDir + "/node_modules/openclaw/openclaw.mjs"
)

// bake finishes OpenClaw's installation, which its first start wants to do in its own
// folder, and then starts it once, so that V8 leaves the bytecode of all that a start
// and a chat turn need. A failure of the latter costs only time in the guest.
func bake(ctx context.Context, tree string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, bakeTimeout)
	defer cancel()
	for _, d := range []string{cacheDir, bakeDir, openclawDir + "/node_modules/openclaw"} {
		if err := giveTree(filepath.Join(tree, d)); err != nil {
			return err
		}
	}
	if err := runIn(ctx, tree, nodePath, entryPath, "--version"); err != nil {
		return err
	}
	cache := filepath.Join(tree, cacheDir)
	if err := runIn(ctx, tree, nodePath, "/"+openclawDir+"/bake.mjs", "/"+cacheDir, "/"+bakeDir); err != nil {
		if ctx.Err() != nil {
			return err
		}
		log.Warn("image is built without a compile cache, it starts slower", "error", err)
		if err := os.RemoveAll(cache); err != nil {
			return err
		}
	}
	// Whatever it wrote elsewhere must not get into the image.
	return errors.Join(openTree(filepath.Join(tree, openclawDir)), emptyDir(filepath.Join(tree, "tmp")))
}

// giveTree makes the folder and lets the image's user write below it.
func giveTree(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, openclawUID, openclawUID)
	})
}

// openTree lets everybody read what the image's user wrote, because in the image all
// belongs to root.
func openTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		perm := info.Mode().Perm() | 0o444
		if d.IsDir() || perm&0o100 != 0 {
			perm |= 0o111
		}
		return os.Chmod(path, perm)
	})
}

// openclawEnv keeps OpenClaw to itself while the image is built.
var openclawEnv = []string{
	"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/" + bakeDir,
	"OPENCLAW_NO_RESPAWN=1", "OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1",
	"OPENCLAW_DISABLE_BONJOUR=1", "OPENCLAW_NO_AUTO_UPDATE=1", "OPENCLAW_EXEC_SHELL_SNAPSHOT=0",
}

// runIn runs a program of the tree as the image's user, in its own root, process,
// mount and network namespaces with nothing but loopback. util-linux's unshare does
// what has to be done between fork and exec.
func runIn(ctx context.Context, tree string, argv ...string) error {
	id := strconv.Itoa(openclawUID)
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
		"--root=" + tree, "--wd=/", "--setgid=" + id, "--setuid=" + id, "--",
	}, argv...)...)
	cmd.Env = openclawEnv
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var out boot.Tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := runOffline(cmd); err != nil {
		return mvm.Errorf(mvm.KindInternal, "run %s in the image: %w: %s", argv[1], err, out.Last())
	}
	return nil
}

// runOffline runs the command in a network namespace that has only loopback.
func runOffline(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		// The thread keeps the namespace, so it ends with this goroutine, and with it
		// the child's Pdeathsig is due: wait for the child here.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		if err := loopbackUp(); err != nil {
			result <- err
			return
		}
		result <- cmd.Run()
	}()
	return <-result
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
