package vm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"mvm/internal/testenv"
)

// oldFlag turns TestDocs on.
var oldFlag = flag.String("old", "", "folder of an older mvm, built: TestDocs upgrades from it, in a fresh Debian")

// suite is the Debian release of a fresh room.
const suite = "bookworm"

// proxyAddr is where apt in a fresh room finds its servers.
const proxyAddr = "127.0.0.1:3142"

// basePackages are what a fresh room has: a Debian that boots, and what its tests use. What
// mvm needs is installed there as the documents say.
var basePackages = []string{"systemd", "systemd-sysv", "dbus", "ca-certificates", "curl", "procps", "iproute2", "util-linux"}

// freshBase is a folder with a new Debian, kept in the cache. It is made of what this
// machine's apt has as its sources.
func freshBase(t testing.TB) string {
	t.Helper()
	list := aptSources(t)
	sum := sha256.Sum256([]byte(list + suite + strings.Join(basePackages, " ")))
	dir := filepath.Join(testenv.Cache(t), "debian", hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	must(t, os.RemoveAll(dir+".tmp"))
	t.Logf("making a new Debian in %s", dir)
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=minbase", "--include="+strings.Join(basePackages, ","), suite, dir+".tmp", "-")
	cmd.Stdin = strings.NewReader(list)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	for name, text := range map[string]string{
		"etc/machine-id":              strings.Repeat("0123456789abcdef", 2) + "\n",
		"etc/hostname":                "fresh\n",
		"etc/apt/apt.conf.d/99-proxy": "Acquire::http::Proxy \"http://" + proxyAddr + "\";\nAcquire::https::Proxy \"http://" + proxyAddr + "\";\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir+".tmp", name), []byte(text), 0o644))
	}
	must(t, os.Rename(dir+".tmp", dir))
	return dir
}

// aptSources are this machine's sources of Debian's packages.
func aptSources(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "apt-get", "indextargets", "--format", "$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	must(t, err)
	var list bytes.Buffer
	for line := range strings.Lines(string(out)) {
		if source, ok := strings.CutPrefix(line, "Debian "); ok && strings.Contains(source, " "+suite) {
			list.WriteString(source)
		}
	}
	if list.Len() == 0 {
		t.Fatalf("this machine's apt has no lists of Debian %s: run apt-get update", suite)
	}
	return list.String()
}

// newFresh is a room with a new Debian. What is written there outlives reboot.
func newFresh(t testing.TB, binds map[string]string) *room {
	t.Helper()
	testenv.NeedRoot(t)
	base, err := os.ReadFile(filepath.Join(place(), "base"))
	must(t, err)
	disk := testenv.Dir(t)
	must(t, unix.Mount("disk", disk, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { must(t, unix.Unmount(disk, 0)) })
	for _, d := range []string{"upper", "work", "mvm"} {
		must(t, os.Mkdir(filepath.Join(disk, d), 0o755))
	}
	r := newRoomOf(t, roomOptions{Base: string(base), Disk: disk, Binds: binds})
	r.serveApt()
	return r
}

// mountBase is mountRoot with a root filesystem of the room's own. The data of mvm is on a
// plain file system, as on other hosts.
func mountBase(o roomOptions) error {
	err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("overlay", o.root("/"), "overlay", 0, "lowerdir="+o.Base+",upperdir="+o.Disk+"/upper,workdir="+o.Disk+"/work"))
	for _, d := range []string{"old", "var/lib/mvm"} {
		err = errors.Join(err, os.MkdirAll(o.root(d), 0o755))
	}
	err = errors.Join(err, unix.Mount("run", o.root("run"), "tmpfs", 0, "mode=755"),
		unix.Mount(o.Disk+"/mvm", o.root("var/lib/mvm"), "", unix.MS_BIND, ""))
	for to, from := range o.Binds {
		err = errors.Join(err, bind(from, o.root(to)))
	}
	return err
}

// again starts the room again once everything in it has ended.
func (r *room) again() {
	r.t.Helper()
	for _, h := range r.hiers {
		testenv.Eventually(r.t, patience, func() error { return removeCgroups(h.Dir) })
		must(r.t, os.Mkdir(h.Dir, 0o755))
	}
	r.boot()
	r.serveApt()
}

// serveApt has apt in the room reach its servers, and nothing else.
func (r *room) serveApt() {
	r.t.Helper()
	l, err := listenIn(r.init.Process.Pid)
	must(r.t, err)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { relay(in) })
		}
	})
	r.noApt = func() {
		_ = l.Close()
		open.Wait()
	}
}

// listenIn listens in the network namespace of the process.
func listenIn(pid int) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		var ns *os.File
		if ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", proxyAddr)
		}
	}()
	<-done
	return l, err
}

func relay(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("unix", filepath.Join(place(), "proxy"))
	if err != nil {
		return
	}
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.UnixConn).CloseWrite()
	})
	_, _ = io.Copy(in, out)
	_ = in.(*net.TCPConn).CloseRead()
	_ = out.Close()
	done.Wait()
}

// serveProxy passes requests of fresh rooms on, from outside of their namespaces.
func serveProxy(dir string) (stop func(), err error) {
	if *oldFlag == "" {
		return func() {}, nil
	}
	l, err := net.Listen("unix", filepath.Join(dir, "proxy"))
	if err != nil {
		return nil, err
	}
	plain := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			plain.ServeHTTP(w, r)
			return
		}
		tunnel(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() {
		_ = s.Shutdown(context.Background())
		<-done
	}, nil
}

func tunnel(w http.ResponseWriter, r *http.Request) {
	out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(out, buffered)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}
