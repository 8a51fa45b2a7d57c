// Command guest is the init of the qemu driver's own tests: it loads the modules in
// /modules, serves the guest channel, and does on request what a test needs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"mvm/internal/guestproto/mux"
)

func main() {
	for dir, fs := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		os.MkdirAll(dir, 0o755)
		syscall.Mount(fs, dir, fs, 0, "")
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "test guest:", err)
	}
	off()
}

func off() { syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) }

func run() error {
	if err := loadModules(); err != nil {
		return err
	}
	path, err := findPort()
	if err != nil {
		return err
	}
	port, err := mux.OpenPort(path)
	if err != nil {
		return err
	}
	fmt.Println("test guest: ready")
	srv := mux.NewServer(port)
	g := &guest{memory: map[byte][]byte{}}
	go g.tick()
	for {
		s, err := srv.Accept(context.Background())
		if err != nil {
			return err
		}
		go g.serve(s)
	}
}

func loadModules() error {
	names, _ := filepath.Glob("/modules/*.ko")
	sort.Strings(names)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		empty := []byte{0}
		const finitModule = 313
		if _, _, e := syscall.Syscall(finitModule, f.Fd(), uintptr(unsafe.Pointer(&empty[0])), 0); e != 0 {
			return fmt.Errorf("load %s: %w", name, e)
		}
		f.Close()
	}
	return nil
}

func findPort() (string, error) {
	for range 2000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			if strings.TrimSpace(string(b)) == "mvm.0" {
				return "/dev/" + filepath.Base(filepath.Dir(n)), nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return "", fmt.Errorf("no virtio-serial port mvm.0")
}

type guest struct {
	ticks  uint64
	memory map[byte][]byte
}

// tick counts, so that a test sees whether the vCPUs run.
func (g *guest) tick() {
	for {
		g.ticks++
		time.Sleep(time.Millisecond)
	}
}

func (g *guest) serve(s *mux.Session) {
	for {
		conn, port, err := s.Accept()
		if err != nil {
			return
		}
		if port != 52 {
			conn.Close()
			continue
		}
		go func() {
			defer conn.Close()
			if err := g.answer(s, conn); err != nil {
				fmt.Fprintln(conn, "error:", err)
			}
		}()
	}
}

// answer does one line's command: a word and its argument.
func (g *guest) answer(s *mux.Session, conn net.Conn) error {
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	word, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case "ping":
		fmt.Fprintln(conn, "pong")
	case "ticks":
		fmt.Fprintln(conn, g.ticks)
	case "echo":
		_, err = io.Copy(conn, r)
	case "dirty": // MiB of memory that does not compress, kept
		var n int
		fmt.Sscan(arg, &n)
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], uint64(i)*0x9E3779B97F4A7C15+1)
		}
		g.memory[0] = b
		fmt.Fprintln(conn, "ok", n)
	case "check":
		for i := 0; i < len(g.memory[0]); i += 8 {
			if binary.LittleEndian.Uint64(g.memory[0][i:]) != uint64(i)*0x9E3779B97F4A7C15+1 {
				return fmt.Errorf("byte %d changed", i)
			}
		}
		fmt.Fprintln(conn, "ok", len(g.memory[0])>>20)
	case "console": // flood it
		line := bytes.Repeat([]byte("x"), 1000)
		line[999] = '\n'
		for range 4000 {
			os.Stdout.Write(line)
		}
		fmt.Fprintln(conn, "ok")
	case "host": // open a stream to the host
		out, err := s.Open(context.Background(), 53)
		if err != nil {
			return err
		}
		defer out.Close()
		fmt.Fprintln(out, arg)
		_, err = io.Copy(conn, out)
		return err
	case "disk": // the content of the block device with a serial
		names, _ := filepath.Glob("/sys/block/*/serial")
		for _, n := range names {
			if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == arg {
				f, err := os.Open("/dev/" + filepath.Base(filepath.Dir(n)))
				if err != nil {
					return err
				}
				defer f.Close()
				head := make([]byte, 16)
				io.ReadFull(f, head)
				fmt.Fprintf(conn, "%q\n", head)
				return nil
			}
		}
		return fmt.Errorf("no disk %q", arg)
	case "nics":
		names, _ := filepath.Glob("/sys/class/net/*/address")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			fmt.Fprint(conn, filepath.Base(filepath.Dir(n)), " ", string(b))
		}
	case "poweroff":
		off()
	case "panic":
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return err
}
