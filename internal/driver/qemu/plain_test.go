package qemu_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/driver/qemu"
)

// plainRestore restores a copy of the snapshot with QEMU alone, run by hand as
// root without sandbox, user, lock, limits or channel, and returns the time from
// its start to its running guest.
func plainRestore(b *testing.B, spec driver.Spec, snap driver.Snapshot) time.Duration {
	b.Helper()
	memory := filepath.Join(spec.Dir, "plain")
	if out, err := exec.Command("cp", "--sparse=always", spec.Memory, memory).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	defer os.Remove(memory)
	mem, err := os.OpenFile(memory, os.O_RDWR, 0)
	must(b, err)
	defer mem.Close()
	files, control := []*os.File{mem}, (*net.UnixConn)(nil)
	for i := range 3 {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(spec.Dir, fmt.Sprint("plain", i)), Net: "unix"})
		must(b, err)
		defer l.Close()
		f, err := l.File()
		must(b, err)
		defer f.Close()
		files = append(files, f)
		if i == 0 {
			control, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
			must(b, err)
			defer control.Close()
		}
	}
	args := qemu.RestoreArgs(spec, 3, 4, 5, 6)
	if i := slices.Index(args, "-sandbox"); i >= 0 {
		args = slices.Delete(args, i, i+2)
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.ExtraFiles = files
	start := time.Now()
	must(b, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	r := bufio.NewScanner(control)
	until := func(what string) {
		for r.Scan() {
			if strings.Contains(r.Text(), what) {
				return
			}
			if strings.Contains(r.Text(), `"error"`) {
				b.Fatal(r.Text())
			}
		}
		b.Fatalf("QEMU ended before it said %s: %v", what, r.Err())
	}
	until("QMP")
	fmt.Fprintln(control, `{"execute":"qmp_capabilities"}`)
	fmt.Fprintln(control, `{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":false},{"capability":"events","state":true}]}}`)
	fmt.Fprintf(control, `{"execute":"migrate-incoming","arguments":{"uri":"exec:cat %s"}}`+"\n", snap.State)
	until(`"completed"`)
	fmt.Fprintln(control, `{"execute":"cont"}`)
	until(`"RESUME"`)
	return time.Since(start)
}
