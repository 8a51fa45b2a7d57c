package vm_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/testenv"
	"mvm/internal/testenv/inject"
)

// dialStrangePort: a guest with a VMM on its side gets to nothing of the host's by a port
// that the host does not serve.
func (b *box) dialStrangePort() {
	b.t.Helper()
	dialer := b.startHostile(imgDial)
	b.outside = b.look()
	run := filepath.Join(b.dir, "r", "i", dialer.id)
	first, _ := b.dialled(dialer.id, 0)
	pid := b.pidOf(dialer.id)
	err := inject.Into(pid, pid, planted(filepath.Join(run, "v.sock_99"), filepath.Join(b.dir, "s")))
	said := "done"
	if err != nil {
		said = err.Error()
	}
	if _, text := b.dialled(dialer.id, first+3); strings.Contains(text, "answered") {
		b.t.Errorf("v.sock_99 -> HOST/s: the guest has the agent's API:\n%s", text)
		said += "; REACHED the agent's API"
	}
	b.table = append(b.table, fmt.Sprintf("%-50s %s", "v.sock_99 -> HOST/s", said))
	b.do(dialer.id, mvm.OpDestroy)
	<-dialer.err
	b.outside = b.look()
}

// dialled waits until the guest has tried n times, and returns the last try and all that
// came of them.
func (b *box) dialled(id string, n int) (last int, text string) {
	b.t.Helper()
	testenv.Eventually(b.t, patience, func() error {
		last, text = -1, ""
		err := b.client.Logs(b.ctx(), mvm.Address{Instance: id}, mvm.LogsSpec{Console: true}, func(l mvm.LogLine) error {
			text += l.Text + "\n"
			if _, after, ok := strings.Cut(l.Text, "dialled "); ok {
				number, _, _ := strings.Cut(after, ":")
				last, _ = strconv.Atoi(number)
			}
			return nil
		})
		if err == nil && last < n {
			err = fmt.Errorf("the guest has dialled %d times, want %d:\n%s", last, n, text)
		}
		return err
	})
	return last, text
}

// pidOf finds the VMM of an instance that the agent does not say is running.
func (b *box) pidOf(id string) int {
	b.t.Helper()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		text, _ := os.ReadFile(p) // it may end meanwhile
		if strings.Contains(string(text), "mvm:"+id+":") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			must(b.t, err)
			return pid
		}
	}
	b.t.Fatalf("there is no VMM of %s", id)
	return 0
}

// passFiles: a VMM that has a stranger hold its open files, the lock among them, keeps
// nobody from stopping its instance and starting it again.
func (b *box) passFiles() {
	b.t.Helper()
	const name = "@mvm-test-stranger"
	stranger, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	must(b.t, err)
	defer stranger.Close()
	pid := b.vmm(b.id)
	must(b.t, inject.Into(pid, pid, connected(name, sendFiles)))
	conn, err := stranger.AcceptUnix()
	must(b.t, err)
	defer conn.Close()
	oob := make([]byte, 1024)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	must(b.t, err)
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	must(b.t, err)
	fds, err := unix.ParseUnixRights(&msgs[0])
	must(b.t, err)
	said := fmt.Sprintf("%d passed", len(fds))
	for _, op := range []mvm.OpKind{mvm.OpStop, mvm.OpStart} {
		if _, err := b.try(b.id, op); err != nil {
			b.t.Errorf("%s while a stranger holds the VMM's files: %v", op, err)
			said += "; KEPT IT FROM " + string(op)
		}
	}
	for _, fd := range fds {
		must(b.t, unix.Close(fd))
	}
	b.table = append(b.table, fmt.Sprintf("%-50s %s", "pass open files to a stranger", said))
}

// sendFiles sends all the files that the VMM was given but the TAP: as long as somebody
// holds that, the instance's network is refused to the next VMM.
func sendFiles(th *inject.Thread, to uint64) error {
	var fds []int
	for fd := 3; fd < 32; fd++ {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", th.PID(), fd))
		if err == nil && to != "/dev/net/tun" {
			fds = append(fds, fd)
		}
	}
	rights := unix.UnixRights(fds...)
	control, err := th.Put(rights)
	if err != nil {
		return err
	}
	byteAt, err := th.Put([]byte{1})
	if err != nil {
		return err
	}
	iov, err := th.Put(words(byteAt, 1))
	if err != nil {
		return err
	}
	_, err = th.Call(unix.SYS_SENDMSG, to, words(0, 0, iov, 1, control, uint64(len(rights)), 0), 0)
	return err
}

// words are numbers as they are in memory.
func words(all ...uint64) []byte {
	var b []byte
	for _, w := range all {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// hide: a VMM whose main thread exits under another name is stopped and destroyed like any
// other, also by an agent that was restarted.
func (b *box) hide() {
	b.t.Helper()
	for _, restart := range []bool{false, true} {
		pid := b.vmm(b.id)
		own, err := os.FindProcess(pid) // by pidfd
		must(b.t, err)
		must(b.t, inject.Into(pid, pid, func(th *inject.Thread) error { return th.Rename("[kworker/0:1]") }))
		must(b.t, inject.Into(pid, pid, (*inject.Thread).Exit))
		said, op := "ended", mvm.OpStop
		if restart {
			b.restart()
			op = mvm.OpDestroy
		}
		if _, err := b.try(b.id, op); err != nil {
			b.t.Errorf("%s of an instance whose VMM hides (agent restarted: %v): %v", op, restart, err)
			said = "NOT " + said
		}
		if err := syscall.Kill(pid, 0); err == nil {
			b.t.Errorf("a VMM that hides lives after %s", op)
			said = "LIVES"
			must(b.t, own.Kill())
		}
		b.table = append(b.table, fmt.Sprintf("%-50s %s", fmt.Sprintf("hide, agent restarted: %v", restart), said))
		if !restart {
			b.do(b.id, mvm.OpStart)
		}
	}
	for _, what := range b.check() {
		b.t.Errorf("after hiding: %s", what)
	}
}
