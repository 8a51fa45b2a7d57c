package vm_test

import (
	"bytes"
	"io"
	"os"
	"syscall"

	"mvm"
	"mvm/internal/filecopy"
)

// testCopy copies a folder into a guest whose image has no tar, and out of it again.
func (h *host) testCopy() {
	at := h.only("workers").Address()
	src, dst := h.path("cp-src"), h.path("cp-dst")
	must(h.t, os.MkdirAll(src+"/sub", 0o750))
	must(h.t, os.WriteFile(src+"/sub/run", []byte("#!/bin/sh\n"), 0o755))
	must(h.t, os.Symlink("/etc/passwd", src+"/link"))
	f, err := os.Create(src + "/sparse")
	must(h.t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 30<<20)
	must(h.t, err)
	must(h.t, f.Truncate(32<<20))
	must(h.t, f.Close())

	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(filecopy.Send(w, filecopy.Source{Path: src})) }()
	var said bytes.Buffer
	code, err := h.client.Copy(h.ctx(), at, mvm.CopySpec{Path: "/data/copied", In: true, Name: "cp-src"}, mvm.ExecIO{Stdin: r, Stdout: io.Discard, Stderr: &said})
	if err != nil || code != 0 {
		h.t.Fatalf("copy in: code %d, %v, %s", code, err, said.String())
	}
	var stream bytes.Buffer
	code, err = h.client.Copy(h.ctx(), at, mvm.CopySpec{Path: "/data/copied"}, mvm.ExecIO{Stdout: &stream, Stderr: &said})
	if err != nil || code != 0 {
		h.t.Fatalf("copy out: code %d, %v, %s", code, err, said.String())
	}
	if stream.Len() > 2<<20 {
		h.t.Errorf("a MiB of data with holes came as %d bytes: the guest filled them", stream.Len())
	}
	_, err = filecopy.Receive(&stream, filecopy.Target{Path: dst})
	must(h.t, err)
	target, err := os.Readlink(dst + "/link")
	if err != nil || target != "/etc/passwd" {
		h.t.Errorf("link to %q, %v", target, err)
	}
	was, err := os.ReadFile(src + "/sparse")
	must(h.t, err)
	got, err := os.ReadFile(dst + "/sparse")
	must(h.t, err)
	var st syscall.Stat_t
	must(h.t, syscall.Stat(dst+"/sparse", &st))
	if !bytes.Equal(got, was) || st.Blocks*512 > 2<<20 {
		h.t.Errorf("%d bytes came back, %d on disk", len(got), st.Blocks*512)
	}
	if st, err := os.Stat(dst + "/sub/run"); err != nil || st.Mode().Perm() != 0o755 {
		h.t.Errorf("sub/run: %v, %v", st, err)
	}
}
