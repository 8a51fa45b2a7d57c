package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"mvm"
)

// fileEvery is how often the file with the desired state is looked at.
const fileEvery = 2 * time.Second

// desiredFile is the file that says what the host is held to.
type desiredFile struct {
	path  string
	seen  string // its fingerprint when it was read last
	state []byte // what was accepted of it
	told  string // the error that was told last
}

// follow holds the host to the file's state once it has changed. A file that can't be
// read, or is refused, changes nothing: the state before it stays in force.
func (r *reconciler) follow(f *desiredFile) {
	if f.path == "" {
		return
	}
	mark := fingerprint(f.path)
	if mark == f.seen {
		return
	}
	err := r.takeUp(f)
	if err == nil || !mvm.IsKind(err, mvm.KindUnavailable) {
		f.seen = mark
	}
	if err == nil {
		f.told = ""
		return
	}
	if text := err.Error(); text != f.told && r.a.ctx.Err() == nil {
		f.told = text
		r.a.log.Error("desired state of the file is not in force", "file", f.path, "error", err)
	}
}

func (r *reconciler) takeUp(f *desiredFile) error {
	state, err := readDesired(f.path)
	if err != nil || bytes.Equal(state, f.state) {
		return err
	}
	if _, err := r.a.Reconcile(asReconcile(r.a.ctx), mvm.ReconcileRequest{State: state, Keep: true, NoWait: true}, nil); err != nil {
		return err
	}
	f.state = state
	r.a.log.Info("desired state of the file is in force", "file", f.path)
	return nil
}

// fingerprint changes when the file is written, replaced, made or removed.
func fingerprint(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "none: " + err.Error()
	}
	ino := uint64(0)
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		ino = s.Ino
	}
	return fmt.Sprint(st.ModTime().UnixNano(), " ", st.Size(), " ", ino)
}

// readDesired reads a regular file of bounded size.
func readDesired(path string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, mvm.Errorf(mvm.KindInvalid, "read desired state %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("it is no regular file")
	}
	if err != nil {
		return fail(err)
	}
	b, err := io.ReadAll(io.LimitReader(f, mvm.MaxStateBytes+1))
	if err == nil && len(b) > mvm.MaxStateBytes {
		err = fmt.Errorf("it has more than %d bytes", mvm.MaxStateBytes)
	}
	if err != nil {
		return fail(err)
	}
	return b, nil
}
