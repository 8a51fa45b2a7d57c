package instances

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/filecopy"
)

const cpHelp = `Copy a file or folder between this machine and an instance. Write one of the two as
INSTANCE:PATH with an absolute path. INSTANCE may be tenant/pool if the pool has exactly one
instance. The image needs no tools for this. If a path on this machine contains ":/", put
./ in front of it.

The rules are those of docker cp. If DST is a folder, SRC is copied into it; otherwise the
copy gets the name DST. "SRC/." means the contents of folder SRC. Existing files are
replaced one by one; other files in the folder stay.

Permissions, times and sparse regions are kept. Symlinks are copied as symlinks;
--follow-link follows SRC itself. Each hard link becomes a separate file. Devices, sockets
and named pipes are skipped, and the command lists them. Files copied into an instance
belong to root, or to USER; with --archive they keep their owner, by name if the instance
has that name, else by number. Files copied out belong to you. Setuid, setgid and sticky
bits are kept only with --archive.

Each file appears under its name only when it is complete. If you interrupt the copy, the
complete files stay.
`

type cpOptions struct {
	wake, follow, archive bool
	user                  string
}

func (a *app) cpCmd() *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{Use: "cp SRC DST [flags]", Short: "Copy files into an instance or out of it", Long: cpHelp,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeCopy,
		Example: "  mvm cp notes.md alice/workers@bob:/data/\n  mvm cp alice/workers@bob:/data/. backup"}
	f := cmd.Flags()
	f.BoolVar(&o.wake, "wake", false, "wake the instance first if it sleeps, or resume it if it is warm")
	f.BoolVarP(&o.follow, "follow-link", "L", false, "if SRC is a symlink, copy its target")
	f.BoolVarP(&o.archive, "archive", "a", false, "keep owners and special permissions (only into an instance)")
	f.StringVarP(&o.user, "user", "u", "", "`USER` in the instance who will own the copied files (default root)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runCp(cmd, args[0], args[1], o) }
	return cmd
}

func (a *app) completeCopy(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, _ := a.CompleteInstances(cmd, args, word)
	for i := range names {
		names[i] += ":/"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

// remotePath takes INSTANCE:PATH apart. Neither names nor keys have a "/" after a ":".
func remotePath(arg string) (instance, path string, ok bool) {
	if strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return "", "", false
	}
	i := strings.Index(arg, ":/")
	if i < 0 {
		return "", "", false
	}
	return arg[:i], arg[i+1:], true
}

func (a *app) runCp(cmd *cobra.Command, src, dst string, o cpOptions) error {
	from, fromPath, out := remotePath(src)
	to, toPath, in := remotePath(dst)
	switch {
	case in && out:
		return command.Usagef(cmd, "cp copies between this machine and an instance, not between two instances")
	case !in && !out:
		return command.Usagef(cmd, "neither %q nor %q is INSTANCE:/PATH", src, dst)
	case out && (o.archive || o.user != ""):
		return command.Usagef(cmd, "--archive and --user are only for copies into an instance; files copied out belong to you")
	case src == "" || dst == "":
		return command.Usagef(cmd, "a path is empty")
	}
	instance := from
	if in {
		instance = to
	}
	return a.onOne(cmd, instance, func(ctx context.Context, c *api.Client, at mvm.Address) error {
		if o.wake {
			if err := a.awake(ctx, c, at, "mvm cp"); err != nil {
				return err
			}
		}
		t := a.newTransfer()
		defer t.done()
		if in {
			spec := mvm.CopySpec{Path: toPath, In: true, Name: nameFor(src), Owners: o.archive, User: o.user}
			return t.in(ctx, c, at, src, o.follow, spec)
		}
		spec := mvm.CopySpec{Path: fromPath, Follow: o.follow}
		return t.out(ctx, c, at, spec, filecopy.Target{Path: dst, Name: nameFor(fromPath)})
	})
}

// nameFor is the name that a copy of the path gets in a folder; "" for the contents of one.
func nameFor(p string) string {
	if p == "." || strings.HasSuffix(p, "/.") {
		return ""
	}
	if name := path.Base(path.Clean(p)); name != "/" && name != "." && name != ".." {
		return name
	}
	return ""
}

// transfer is one copy under way.
type transfer struct {
	a     *app
	said  words
	moved atomic.Int64
	end   chan struct{}
	shown sync.WaitGroup
}

// newTransfer shows on a terminal how much is copied.
func (a *app) newTransfer() *transfer {
	t := &transfer{a: a, end: make(chan struct{})}
	if p := a.NewProgress(); p.Live {
		t.shown.Go(func() {
			defer p.Done()
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-t.end:
					return
				case <-tick.C:
					p.Show(mvm.Progress{Text: "copying", Done: t.moved.Load()})
				}
			}
		})
	}
	return t
}

func (t *transfer) done() {
	close(t.end)
	t.shown.Wait()
	for line := range strings.Lines(t.said.text()) {
		if strings.HasPrefix(line, "skipped ") {
			t.a.Say("%s", strings.TrimSpace(line))
		}
	}
}

// in copies from here into the instance.
func (t *transfer) in(ctx context.Context, c *api.Client, at mvm.Address, src string, follow bool, spec mvm.CopySpec) error {
	local, err := filepath.Abs(src)
	if err == nil {
		_, err = os.Lstat(local)
	}
	if err != nil {
		return ofHere(err)
	}
	r, w := io.Pipe()
	var sent error
	var sending sync.WaitGroup
	sending.Go(func() {
		sent = filecopy.Send(io.MultiWriter(w, counter{&t.moved}), filecopy.Source{Path: local, Follow: follow, Skipped: func(path, why string) {
			t.a.Say("skipped %s: %s", path, why)
		}})
		_ = w.CloseWithError(sent)
	})
	code, err := c.Copy(ctx, at, spec, mvm.ExecIO{Stdin: r, Stdout: io.Discard, Stderr: &t.said})
	_ = r.CloseWithError(errGone)
	sending.Wait()
	if sent != nil && !errors.Is(sent, errGone) {
		return ofHere(sent)
	}
	return t.ended(code, err)
}

// errGone ends a transfer whose other side has ended.
var errGone = errors.New("the other side has ended")

// out copies from the instance to here.
func (t *transfer) out(ctx context.Context, c *api.Client, at mvm.Address, spec mvm.CopySpec, to filecopy.Target) error {
	r, w := io.Pipe()
	var got error
	var receiving sync.WaitGroup
	receiving.Go(func() {
		_, got = filecopy.Receive(r, to)
		_ = r.CloseWithError(errGone)
	})
	code, err := c.Copy(ctx, at, spec, mvm.ExecIO{Stdout: io.MultiWriter(w, counter{&t.moved}), Stderr: &t.said})
	_ = w.CloseWithError(io.ErrUnexpectedEOF) // no matter when all of it was there
	receiving.Wait()
	if got != nil && !errors.Is(got, io.ErrUnexpectedEOF) {
		return ofHere(got)
	}
	if err := t.ended(code, err); err != nil {
		return err
	}
	return ofHere(got)
}

// ofHere is an error of this machine's side.
func ofHere(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return mvm.Errorf(mvm.KindNotFound, "copy: %w", err)
	}
	return mvm.Errorf(mvm.KindInternal, "copy: %w", err)
}

// ended says what the guest said when the copy failed there.
func (t *transfer) ended(code int, err error) error {
	if err != nil || code == 0 {
		return err
	}
	kind := mvm.KindInternal
	if code == 3 {
		kind = mvm.KindNotFound
	}
	why := "it did not say why"
	for line := range strings.Lines(t.said.text()) {
		if !strings.HasPrefix(line, "skipped ") {
			why = strings.TrimSpace(line)
		}
	}
	return mvm.Errorf(kind, "copy: the guest: %s", why)
}

// words keeps the end of what a guest says.
type words struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxWords = 64 << 10

// Write keeps b, in place of what came first.
func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	b = b[max(0, n-maxWords):]
	w.buf.Next(max(0, w.buf.Len()+len(b)-maxWords))
	w.buf.Write(b)
	return n, nil
}

func (w *words) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// counter counts bytes.
type counter struct{ n *atomic.Int64 }

// Write counts b.
func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}
