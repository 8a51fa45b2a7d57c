package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/store"
)

// fileEvery is how often the file with the desired state is looked at.
const fileEvery = 2 * time.Second

// metaFile is where the digest of the file that was accepted last is kept, so that after
// a restart the same file is not put over a state that was pushed since.
const metaFile = "desired_file"

// desiredFile is the file that says what the host is held to.
type desiredFile struct {
	path  string
	seen  string // its fingerprint when nothing more was to be done for it
	told  string // the error that was told last
	mark  string // its fingerprint when it was refused
	fails int    // how often in a row
	retry time.Time
}

// follow holds the host to the file's state once it has changed. A file that can't be
// read, or is refused, changes nothing: the state before it stays in force. What is
// wrong with the file itself stays wrong until it changes; for all else it is tried
// again.
func (r *reconciler) follow(f *desiredFile) {
	if f.path == "" {
		return
	}
	mark := fingerprint(f.path)
	if mark != f.mark {
		f.mark, f.fails, f.retry = mark, 0, time.Time{}
	}
	if mark == f.seen || f.retry.After(time.Now()) {
		return
	}
	err := r.takeUp(f)
	if err == nil || mvm.IsKind(err, mvm.KindInvalid) {
		f.seen = mark
	} else {
		f.fails++
		f.retry = time.Now().Add(r.backoff(f.fails))
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
	if err != nil {
		return err
	}
	sum := sha256.Sum256(state)
	digest, last := hex.EncodeToString(sum[:]), ""
	err = r.a.store.View(func(tx *store.Tx) (err error) {
		last, _, err = tx.Meta(metaFile)
		return err
	})
	if err != nil || last == digest {
		return err
	}
	doc, accept, err := r.a.readState(state)
	if err != nil {
		return err
	}
	acc := acceptance{signed: accept, also: func(tx *store.Tx) error { return tx.PutMeta(metaFile, digest) }}
	if _, _, err := r.a.applyState(asReconcile(r.a.ctx), doc, mvm.ReconcileRequest{Keep: true}, acc, oneAtATime(nil)); err != nil {
		return err
	}
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
	defer f.Close()
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
