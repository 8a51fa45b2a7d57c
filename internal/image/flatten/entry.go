package flatten

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image/erofs"
)

const (
	whiteout     = ".wh."
	opaque       = ".wh..wh..opq"
	aufsReserved = ".wh..wh."

	xattrRecord = "SCHILY.xattr."
)

// entry adds one entry of a layer.
func (f *Flattener) entry(h *tar.Header, content io.Reader, estargz bool) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := f.split(h.Name)
	if err != nil {
		return refused(h.Name, "%w", err)
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return refused(h.Name, "the root is no folder")
		}
	} else if skipped(parts, estargz) {
		return nil
	}
	if err := f.count(h); err != nil {
		return refused(h.Name, "%w", err)
	}
	if err := f.apply(h, parts, content); err != nil {
		return refused(h.Name, "%w", err)
	}
	return nil
}

// skipped are files that tools keep for themselves in layers: of aufs, and of eStargz.
func skipped(parts []string, estargz bool) bool {
	for n, p := range parts {
		if strings.HasPrefix(p, aufsReserved) && !(p == opaque && n == len(parts)-1) {
			return true
		}
	}
	return estargz && len(parts) == 1 && slices.Contains([]string{"stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"}, parts[0])
}

// split takes a name apart. A slash at the begin is the image's root.
func (f *Flattener) split(name string) ([]string, error) {
	if f.meta += int64(len(name)); f.meta > f.limits.Meta {
		return nil, fmt.Errorf("names, links and attributes have more than %d bytes", f.limits.Meta)
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		if p == "" || p == "." {
			continue
		}
		if err := checkName(p); err != nil {
			return nil, err
		}
		if parts = append(parts, p); len(parts) > f.limits.Depth {
			return nil, fmt.Errorf("it is in more than %d folders", f.limits.Depth)
		}
	}
	return parts, nil
}

func checkName(p string) error {
	switch {
	case p == "..":
		return errors.New("its name has .., which leads out of the image")
	case len(p) > erofs.MaxName:
		return fmt.Errorf("a part of its name has %d bytes, more than %d", len(p), erofs.MaxName)
	case strings.ContainsFunc(p, isControl):
		return errors.New("its name has control characters")
	}
	return nil
}

// isControl also holds for what turns the direction of text.
func isControl(r rune) bool {
	return unicode.IsControl(r) || r != utf8.RuneError && unicode.Is(unicode.Bidi_Control, r)
}

// count takes what the entry claims from what is left, before anything of it is read.
func (f *Flattener) count(h *tar.Header) error {
	f.meta += int64(len(h.Linkname))
	xattrs := 0
	for name, value := range h.PAXRecords {
		if strings.HasPrefix(name, xattrRecord) {
			xattrs += len(name) + len(value)
		}
	}
	if f.meta += int64(xattrs); f.meta > f.limits.Meta {
		return fmt.Errorf("names, links and attributes have more than %d bytes", f.limits.Meta)
	}
	if xattrs > f.limits.Xattrs {
		return fmt.Errorf("its attributes have %d bytes, more than %d", xattrs, f.limits.Xattrs)
	}
	if h.Size < 0 || isRegular(h) && h.Size > f.limits.Bytes-f.done.Bytes {
		return fmt.Errorf("with its %d bytes the files have more than %d", h.Size, f.limits.Bytes)
	}
	if f.limits.Disk > 0 && isRegular(h) && h.Size > f.limits.Disk-f.done.Bytes {
		return mvm.Errorf(mvm.KindUnavailable, "with its %d bytes the files have more than %d MiB, and the disk has no room for more", h.Size, f.limits.Disk>>20).
			WithFix("free space in the image store, or move mvm's data to a larger disk with --data-dir")
	}
	return nil
}

func isRegular(h *tar.Header) bool {
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		return true
	}
	return false
}

func (f *Flattener) apply(h *tar.Header, parts []string, content io.Reader) error {
	if len(parts) == 0 {
		return f.attributes(f.root, h, unix.S_IFDIR)
	}
	name := parts[len(parts)-1]
	dir, err := f.parent(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, whiteout) {
		return f.whiteout(dir, name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return f.folder(dir, name, h)
	case tar.TypeLink:
		return f.hardLink(dir, name, h.Linkname)
	case tar.TypeSymlink:
		return f.symlink(dir, name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		delete(dir.children, name) // in the guest nothing is there, as on a fresh system
		f.done.LeftOut++
		return nil
	}
	if !isRegular(h) {
		return fmt.Errorf("its type %q is not one of an image", h.Typeflag)
	}
	return f.file(dir, name, h, content)
}

// whiteout removes what lower layers have.
func (f *Flattener) whiteout(dir *node, name string) error {
	if name == opaque {
		f.prune(dir)
		return nil
	}
	hidden := strings.TrimPrefix(name, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errors.New("it hides no file")
	}
	if c := dir.children[hidden]; c.node != nil && f.pruneChild(c) {
		delete(dir.children, hidden)
	}
	return nil
}

func (f *Flattener) folder(dir *node, name string, h *tar.Header) error {
	n := dir.children[name].node
	if n == nil || !n.isDir() {
		n = newFolder()
	}
	if err := f.attributes(n, h, unix.S_IFDIR); err != nil {
		return err
	}
	f.set(dir, name, n)
	return nil
}

func (f *Flattener) symlink(dir *node, name string, h *tar.Header) error {
	switch {
	case h.Linkname == "" || len(h.Linkname) > erofs.MaxTarget:
		return fmt.Errorf("it links to a path of %d bytes, not 1 to %d", len(h.Linkname), erofs.MaxTarget)
	case strings.ContainsFunc(h.Linkname, isControl):
		return errors.New("it links to a name with control characters")
	}
	n := &node{}
	n.Target = h.Linkname
	if err := f.attributes(n, h, unix.S_IFLNK); err != nil {
		return err
	}
	f.set(dir, name, n)
	return nil
}

// hardLink gives a file of the tree another name.
func (f *Flattener) hardLink(dir *node, name, to string) error {
	parts, err := f.split(to)
	if err != nil {
		return fmt.Errorf("it links to %.300q: %w", to, err)
	}
	if len(parts) == 0 {
		return errors.New("it is a hard link to the root")
	}
	from, err := f.find(parts[:len(parts)-1])
	if err != nil {
		return fmt.Errorf("it links to %.300q: %w", to, err)
	}
	n := from.children[parts[len(parts)-1]].node
	switch {
	case n == nil:
		return fmt.Errorf("it links to %.300q, which is not there", to)
	case n.isDir():
		return fmt.Errorf("it is a hard link to the folder %.300q", to)
	case from == dir && name == parts[len(parts)-1]:
		return errors.New("it is a hard link to itself")
	}
	if n.names++; n.names >= f.limits.Links {
		return fmt.Errorf("its file has more than %d names", f.limits.Links)
	}
	f.set(dir, name, n)
	return nil
}

func (f *Flattener) file(dir *node, name string, h *tar.Header, content io.Reader) error {
	n := &node{}
	if err := f.attributes(n, h, unix.S_IFREG); err != nil {
		return err
	}
	at, size := f.at, h.Size
	if err := f.keep(content, size); err != nil {
		return err
	}
	n.Size = size
	n.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f.spool, at, size)), nil }
	f.set(dir, name, n)
	return nil
}

// keep puts a content at the end of the spool file. Its zeros stay holes there.
func (f *Flattener) keep(content io.Reader, size int64) error {
	f.done.Bytes += size
	for buf := make([]byte, min(size, 64<<10)); size > 0; {
		part := buf[:min(size, int64(len(buf)))]
		if _, err := io.ReadFull(content, part); err != nil {
			return fmt.Errorf("its last %d bytes are missing: %w", size, err)
		}
		if len(bytes.TrimLeft(part, "\x00")) > 0 {
			if _, err := f.spool.WriteAt(part, f.at); err != nil {
				return err
			}
		}
		f.at, size = f.at+int64(len(part)), size-int64(len(part))
	}
	return nil
}

// attributes sets owner, permissions, time and extended attributes. Of the latter it keeps
// those that mean something in a guest.
func (f *Flattener) attributes(n *node, h *tar.Header, kind uint32) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return fmt.Errorf("its owner %d:%d is none", h.Uid, h.Gid)
	}
	mode := uint32(h.Mode) & 0o7777
	if kind == unix.S_IFLNK {
		mode = 0o777
	}
	n.Mode, n.UID, n.GID = kind|mode, uint32(h.Uid), uint32(h.Gid)
	n.Mtime, n.MtimeNsec = 0, 0
	if s := h.ModTime.Unix(); s > 0 && s < 1<<34 {
		n.Mtime, n.MtimeNsec = s, uint32(h.ModTime.Nanosecond())
	}
	n.Xattrs = nil
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || !keptXattr(name) || kind == unix.S_IFLNK {
			continue
		}
		if len(name) > erofs.MaxName || len(value) > erofs.MaxXattrValue || strings.ContainsFunc(name, isControl) {
			return fmt.Errorf("attribute %.300q of %d bytes is none that a file can have", name, len(value))
		}
		if n.Xattrs == nil {
			n.Xattrs = map[string]string{}
		}
		n.Xattrs[name] = value
	}
	return nil
}

func keptXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

// join is for messages.
func join(parts []string) string { return "/" + path.Join(parts...) }
