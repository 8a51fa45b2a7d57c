package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"mvm/internal/image/cpio"
)

// Bounds of an archive of files to add.
const (
	maxArchive = maxAddBytes + 64<<20
	maxEntry   = 100_000
	maxTarget  = 4095
)

// writeArchive adds what the folder's archive has, below where. The archive is of the folder's
// owner, so each entry is checked as those of add are.
func (s *source) writeArchive(ctx context.Context, w *cpio.Writer, where string) error {
	f, before, err := s.open(s.archive, maxArchive)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := measureOpen(ctx, f, before.Size)
	if err != nil {
		return err
	}
	if want := s.archive; want.Size != 0 && want.Size != got.Size || want.SHA256 != "" && want.SHA256 != got.SHA256 {
		return fmt.Errorf("%s has %d bytes and SHA-256 %s, %s says otherwise", want.Name, got.Size, got.SHA256, ManifestName)
	}
	a := addition{w: w, where: where, kinds: map[string]bool{}, left: maxAddBytes}
	if err := cpio.Read(bufio.NewReaderSize(ctxReader{ctx, f}, copyChunk), a.entry); err != nil {
		return fmt.Errorf("%s: %w", s.archive.Name, err)
	}
	if after, err := stampOf(f); err != nil || after != before {
		return errors.Join(err, fmt.Errorf("%s was changed during the copy: build again when nobody writes to it", s.archive.Name))
	}
	return nil
}

// addition is an archive that is being added to an initrd.
type addition struct {
	w     *cpio.Writer
	where string
	kinds map[string]bool // what was added, by path in the guest: whether it is a folder
	left  int64           // bytes that may be added
}

func (a *addition) entry(e cpio.Entry, content io.Reader) error {
	p := "/" + e.Name
	if e.Name == "." {
		return nil
	}
	if err := CheckPath(p); err != nil {
		return err
	}
	if len(a.kinds) == maxEntry {
		return fmt.Errorf("more than %d entries", maxEntry)
	}
	if _, ok := a.kinds[p]; ok {
		return fmt.Errorf("path %q is given twice", p)
	}
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		if folder, ok := a.kinds[d]; ok && !folder {
			return fmt.Errorf("path %q is below %q, which is no folder", p, d)
		}
	}
	if a.left -= e.Size; a.left < 0 {
		return fmt.Errorf("the files have more than %d MiB", maxAddBytes>>20)
	}
	a.kinds[p] = e.Folder()
	to := path.Join(a.where, p)
	if err := a.w.MkdirAll(path.Dir(to)); err != nil {
		return err
	}
	switch {
	case e.Folder():
		return a.w.Dir(to, e.Mode&0o1777)
	case e.Symlink() && e.Size > 0 && e.Size <= maxTarget:
		var target strings.Builder
		if _, err := io.Copy(&target, content); err != nil {
			return err
		}
		return a.w.Symlink(to, target.String())
	case e.Regular() && e.Links == 1:
		return a.w.File(to, e.Mode&0o777, e.Size, content)
	}
	return fmt.Errorf("%q is not a file with one name, a folder or a symbolic link", p)
}
