package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/sys"
)

// What an OpenClaw of one's own needs: an image of its size and a sleeper or two on
// disk; one worker and a gateway in memory.
const (
	lowDisk  = 8 << 30
	noDisk   = 2 << 30
	lowMem   = 4 << 30
	noMem    = 1 << 30
	gibibyte = 1 << 30
)

func (h host) disk(context.Context) mvm.Finding {
	dir := existing(h.opt.DataDir)
	free, err := sys.FreeBytes(dir)
	if err != nil {
		return found(warning, "can't read the free disk space: "+err.Error(), dir, "")
	}
	what := fmt.Sprintf("%.1f GiB free for images, snapshots and data disks", float64(free)/gibibyte)
	const fix = "free some space, or choose another disk with --data-dir"
	switch {
	case free < noDisk:
		return found(failure, what, dir, fix)
	case free < lowDisk:
		return found(warning, what, dir, fix)
	}
	return found(ok, what, dir, "")
}

// existing returns the path or the nearest folder above it that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

func (h host) memory(context.Context) mvm.Finding {
	free, err := h.available()
	if err != nil {
		return found(warning, "can't read the free memory: "+err.Error(), "", "")
	}
	what := fmt.Sprintf("%.1f GiB of memory available", float64(free)/gibibyte)
	const fix = "put instances to sleep or stop them, or use smaller ones"
	switch {
	case free < noMem:
		return found(failure, what, "", fix)
	case free < lowMem:
		return found(warning, what, "", fix)
	}
	return found(ok, what, "", "")
}

// available reads MemAvailable, in bytes.
func (h host) available() (int64, error) {
	f, err := os.Open(h.path("/proc/meminfo"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if rest, is := strings.CutPrefix(sc.Text(), "MemAvailable:"); is {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.Join(sc.Err(), errors.New("/proc/meminfo has no MemAvailable"))
}
