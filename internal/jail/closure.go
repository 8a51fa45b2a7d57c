package jail

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// closureTimeout bounds the interpreter's look for libraries.
const closureTimeout = 20 * time.Second

// Closure lists the program with its interpreter and its libraries, as the interpreter finds
// them on this host. It runs the interpreter, and nothing of the program's.
func Closure(ctx context.Context, program string) ([]string, error) {
	interpreter, err := interpreterOf(program)
	if err != nil || interpreter == "" {
		return []string{program}, err
	}
	ctx, cancel := context.WithTimeout(ctx, closureTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, interpreter, "--list", program)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"LC_ALL=C"}, "/", time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	all := []string{program, interpreter}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if filepath.IsAbs(word) {
				all = append(all, word)
			}
		}
	}
	if _, err := os.Stat("/etc/ld.so.cache"); err == nil {
		all = append(all, "/etc/ld.so.cache")
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// interpreterOf is the program's dynamic linker; "" where it is linked statically, or is no ELF file.
func interpreterOf(program string) (string, error) {
	f, err := elf.Open(program)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, min(p.Filesz, 4096))
		if _, err := p.ReadAt(b, 0); err != nil {
			return "", fmt.Errorf("read the interpreter of %s: %w", program, err)
		}
		return strings.TrimRight(string(b), "\x00"), nil
	}
	return "", nil
}
