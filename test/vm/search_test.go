package vm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// holding returns the files below the folder that hold one of the texts, relative to
// it. Links are not followed, and folders of the names in skip are left out.
func holding(t testing.TB, dir string, texts []string, skip ...string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went while we looked
			return nil
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skip, d.Name()):
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		hits, err := search(path, texts)
		if len(hits) > 0 {
			name, _ := filepath.Rel(dir, path)
			found[name] = hits
		}
		return err
	}))
	return found
}

// search returns those of the texts that are in the file.
func search(path string, texts []string) (hits []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return searchIn(f, texts)
}

// searchMemory returns those of the texts that are in the guest's memory, as its VMM has it.
func searchMemory(pid int, texts []string) (hits []string, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	const guest = 64 << 20 // more than anything else that a VMM maps
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x rw", &from, &to); err != nil || to-from < guest {
			continue
		}
		found, err := searchIn(io.NewSectionReader(mem, from, to-from), texts)
		hits = append(hits, found...)
		if err != nil {
			return hits, err
		}
	}
	return hits, nil
}

func searchIn(f io.Reader, texts []string) (hits []string, err error) {
	const keep = 256 // longer than any text: one may lie across two reads
	buf := make([]byte, 4<<20+keep)
	have := 0
	for {
		n, err := f.Read(buf[have:])
		chunk := buf[:have+n]
		for _, s := range texts {
			if !slices.Contains(hits, s) && bytes.Contains(chunk, []byte(s)) {
				hits = append(hits, s)
			}
		}
		have = copy(buf, chunk[max(0, len(chunk)-keep):])
		if errors.Is(err, io.EOF) {
			return hits, nil
		}
		if err != nil {
			return hits, err
		}
	}
}

// wantNowhere fails for files of the host's folder, its log, its state and snapshots among
// them, that hold one of the values.
func (h *host) wantNowhere(values ...string) {
	h.t.Helper()
	for name, hits := range holding(h.t, h.dir, values, "demo") {
		h.t.Errorf("%s holds %d secrets in the clear", name, len(hits))
	}
}

// wantInMemory fails unless the instance's VMM has the value in its guest's memory: what is
// found there is worth looking for on the disk.
func (h *host) wantInMemory(id, value string) {
	h.t.Helper()
	hits, err := searchMemory(h.vmm(id), []string{value})
	must(h.t, err)
	if len(hits) == 0 {
		h.t.Error("the search does not find it in the memory of the guest that has it")
	}
}

// inSnapshot reports whether a file of the data dir is a part of a snapshot.
func inSnapshot(name string) bool {
	parts := strings.Split(filepath.ToSlash(name), "/")
	return len(parts) >= 3 && parts[0] == "instances" && slices.Contains([]string{"segments", "snapshots", "set-aside"}, parts[2])
}
