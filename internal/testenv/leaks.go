package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// NothingLeft checks, when the test and the cleanups registered after this call
// are done, that no process, mount or listening socket is left that has to do with
// the folder. Call it first, with the folder that everything of the test is in.
func NothingLeft(t testing.TB, dir string) {
	t.Helper()
	t.Cleanup(func() {
		Eventually(t, Patience, func() error {
			if left := Left(dir); len(left) > 0 {
				return errors.New("left behind: " + strings.Join(left, "; "))
			}
			return nil
		})
	})
}

// Left lists the processes, mounts and listening sockets that have to do with the
// folder, in words.
func Left(dir string) []string {
	return slices.Concat(processes(dir), mounts(dir), sockets(dir))
}

// within reports whether text names the folder or something below it.
func within(text, dir string) bool {
	for rest := text; ; {
		i := strings.Index(rest, dir)
		if i < 0 {
			return false
		}
		rest = rest[i+len(dir):]
		if rest == "" || !isNameByte(rest[0]) {
			return true
		}
	}
}

func isNameByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' || c == '.'
}

func processes(dir string) []string {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var left []string
	for _, p := range procs {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(p + "/cmdline") // it may end meanwhile
		cwd, _ := os.Readlink(p + "/cwd")
		text := string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		if within(text, dir) || within(cwd, dir) {
			left = append(left, fmt.Sprintf("process %s %.200s", filepath.Base(p), text))
		}
	}
	return left
}

func mounts(dir string) []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var left []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && within(f[4], dir) {
			left = append(left, "mount "+f[4])
		}
	}
	return left
}

// sockets lists unix sockets that something listens on, so that their owner lives.
func sockets(dir string) []string {
	b, _ := os.ReadFile("/proc/net/unix")
	var left []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 8 && f[3] == "00010000" && within(f[7], dir) {
			left = append(left, "socket "+f[7])
		}
	}
	return left
}

// NetworkLeft lists the interfaces and nftables tables with mvm's names in the
// network namespace of the calling thread. netIDs restricts the interfaces to
// those of the tenants, for tests that share a namespace with others.
func NetworkLeft(netIDs ...int) ([]string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var left []string
	for _, i := range ifs {
		if ours(i.Name, netIDs) {
			left = append(left, "interface "+i.Name)
		}
	}
	if len(netIDs) > 0 {
		return left, nil
	}
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return left, fmt.Errorf("list nftables tables: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "mvm") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return left, nil
}

func ours(name string, netIDs []int) bool {
	m := regexp.MustCompile(`^(?:br-tenant-(\d+)|tn(\d+)i\d+)$`).FindStringSubmatch(name)
	if m == nil {
		return false
	}
	id := m[1] + m[2]
	return len(netIDs) == 0 || slices.ContainsFunc(netIDs, func(n int) bool { return fmt.Sprint(n) == id })
}
