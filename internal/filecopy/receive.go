package filecopy

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Target is where Receive writes. As with docker cp: into Path where it is a folder, else
// under that name, whose folder must be there.
type Target struct {
	Path string
	// Name is that of the source. Empty: the contents of a source folder go into Path
	// itself.
	Name string
	// Owners: who owned an entry owns it here, by name or else by number. Owner, where
	// given, owns all of it. Otherwise it is whoever receives.
	Owners bool
	Owner  *Owner
	// Setuid keeps these bits where Owners is set. They are never to be kept of what comes
	// from a guest.
	Setuid bool
}

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Got counts what was received.
type Got struct {
	Files int   // and folders and symlinks
	Bytes int64 // without holes
}

// Receive writes the file or folder that r carries. With an error what was whole before
// it stays, and nothing is there that is not whole.
func Receive(r io.Reader, t Target) (Got, error) {
	x := &receiver{r: reader{bufio.NewReaderSize(r, maxChunk)}, t: t, names: newNames(), buf: make([]byte, maxChunk)}
	err := x.all()
	return x.got, err
}

type receiver struct {
	r     reader
	t     Target
	names *names
	buf   []byte
	got   Got
}

func (x *receiver) all() error {
	head := make([]byte, len(magic))
	if err := x.r.full(head); err != nil {
		return err
	}
	if string(head) != magic {
		return errors.New("the other side uses another copy format: it may have another version of mvm")
	}
	kind, err := x.r.kind()
	if err != nil {
		return err
	}
	h, err := x.r.header(kind, true)
	if err != nil {
		return err
	}
	dir, name, err := x.t.place(kind == kindFolder)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if name == "" {
		err = x.children(root, dir, 1)
	} else {
		err = x.entry(root, filepath.Join(dir, name), kind, h, 1)
	}
	if err != nil {
		return err
	}
	if kind, err = x.r.kind(); err == nil && kind != recDone {
		err = fmt.Errorf("record %q where the end should be", kind)
	}
	return err
}

// place is the folder that the first entry goes to and its name there; no name where the
// folder takes its contents.
func (t Target) place(folder bool) (dir, name string, err error) {
	path := filepath.Clean(t.Path)
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir() && t.Name == "" && folder:
		return path, "", nil
	case err == nil && st.IsDir() && t.Name == "":
		return "", "", fmt.Errorf("%s is a folder, but the copied file is not", path)
	case err == nil && st.IsDir():
		return path, t.Name, nil
	case err == nil && folder:
		return "", "", fmt.Errorf("%s exists and is not a folder", path)
	case err == nil:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", "", err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case !folder && strings.HasSuffix(t.Path, "/"):
		return "", "", fmt.Errorf("folder %s: %w", t.Path, fs.ErrNotExist)
	}
	dir, name = filepath.Dir(path), filepath.Base(path)
	if st, err := os.Stat(dir); err != nil {
		return "", "", err
	} else if !st.IsDir() {
		return "", "", fmt.Errorf("%s is not a folder", dir)
	}
	return dir, name, nil
}

func (x *receiver) entry(parent *os.Root, path string, kind byte, h header, depth int) error {
	x.got.Files++
	var err error
	switch kind {
	case kindFolder:
		err = x.folder(parent, path, h, depth)
	case kindFile:
		err = x.file(parent, path, h)
	case kindLink:
		err = x.link(parent, path, h)
	default:
		return fmt.Errorf("record %q is unknown", kind)
	}
	return err
}

// folder makes a folder, or uses the one that is there, which must not be a symlink.
func (x *receiver) folder(parent *os.Root, path string, h header, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d folders in each other", path, maxDepth)
	}
	name := filepath.Base(path)
	err := parent.Mkdir(name, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	before, err := parent.Lstat(name)
	if err != nil {
		return err
	}
	if !before.IsDir() {
		return fmt.Errorf("%s exists and is not a folder", path)
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if now, err := root.Stat("."); err != nil || !os.SameFile(before, now) {
		return errors.Join(fmt.Errorf("%s changed while it was opened", path), err)
	}
	if err := x.children(root, path, depth); err != nil || !made {
		return err
	}
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := x.finish(f, h); err != nil {
		return err
	}
	return parent.Chtimes(name, time.Time{}, time.Unix(0, h.MTime))
}

// children takes entries until the folder is over.
func (x *receiver) children(root *os.Root, path string, depth int) error {
	for {
		kind, err := x.r.kind()
		if err != nil || kind == recUp {
			return err
		}
		h, err := x.r.header(kind, false)
		if err != nil {
			return err
		}
		if err := x.entry(root, filepath.Join(path, string(h.Name)), kind, h, depth+1); err != nil {
			return err
		}
	}
}

// temporary is a name under which nothing else is.
func temporary() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return ".mvm-cp-" + hex.EncodeToString(b[:])
}

func (x *receiver) file(parent *os.Root, path string, h header) (err error) {
	name, tmp := filepath.Base(path), temporary()
	f, err := parent.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = parent.Chtimes(tmp, time.Time{}, time.Unix(0, h.MTime))
		}
		err = x.publish(parent, tmp, name, path, err)
	}()
	if err := x.data(f); err != nil {
		return err
	}
	return x.finish(f, h)
}

// publish gives what is whole its name, and removes what is not.
func (x *receiver) publish(parent *os.Root, tmp, name, path string, err error) error {
	if err == nil {
		if err = parent.Rename(tmp, name); err != nil && isFolder(parent, name) {
			err = fmt.Errorf("%s exists and is a folder", path)
		}
	}
	if err != nil {
		return errors.Join(err, parent.Remove(tmp))
	}
	return nil
}

func isFolder(parent *os.Root, name string) bool {
	st, err := parent.Lstat(name)
	return err == nil && st.IsDir()
}

// data takes the chunks of a file. They come in order.
func (x *receiver) data(f *os.File) error {
	end := uint64(0)
	for {
		kind, err := x.r.kind()
		if err != nil {
			return err
		}
		at, err := x.r.number(8)
		if err != nil {
			return err
		}
		if at < end || at > 1<<62 {
			return fmt.Errorf("data at %d, before %d", at, end)
		}
		switch kind {
		case recSize:
			return f.Truncate(int64(at))
		case recChunk:
		default:
			return fmt.Errorf("record %q in a file", kind)
		}
		n, err := x.r.number(4)
		if err != nil {
			return err
		}
		if n > maxChunk {
			return fmt.Errorf("%d bytes of data are more than %d", n, maxChunk)
		}
		if err := x.r.full(x.buf[:n]); err != nil {
			return err
		}
		if _, err := f.WriteAt(x.buf[:n], int64(at)); err != nil {
			return err
		}
		end = at + n
		x.got.Bytes += int64(n)
	}
}

// finish gives an open file or folder its owner and its mode.
func (x *receiver) finish(f *os.File, h header) error {
	if uid, gid, ok := x.owner(h); ok {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	keep := uint32(0o777)
	if x.t.Setuid && x.t.Owners {
		keep = 0o7777
	}
	return syscall.Fchmod(int(f.Fd()), h.Mode&keep)
}

func (x *receiver) owner(h header) (uid, gid int, ok bool) {
	switch {
	case x.t.Owner != nil:
		return x.t.Owner.UID, x.t.Owner.GID, true
	case x.t.Owners:
		uid, gid = x.names.owner(h)
		return uid, gid, true
	}
	return 0, 0, false
}

func (x *receiver) link(parent *os.Root, path string, h header) error {
	tmp := temporary()
	if err := parent.Symlink(string(h.Link), tmp); err != nil {
		return err
	}
	var err error
	if uid, gid, ok := x.owner(h); ok {
		err = parent.Lchown(tmp, uid, gid)
	}
	return x.publish(parent, tmp, filepath.Base(path), path, err)
}
