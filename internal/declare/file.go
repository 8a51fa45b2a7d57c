package declare

import (
	"context"
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

// Follow holds the host to the file's state once it has changed. A file that can't be
// read, or is refused, changes nothing: the state before it stays in force. What is
// wrong with the file itself stays wrong until it changes; for all else it is tried
// again. One goroutine at a time calls it.
func (c *Declarer) Follow(ctx context.Context) {
	f := &c.file
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
	err := c.takeUp(ctx, f)
	if err == nil || mvm.IsKind(err, mvm.KindInvalid) {
		f.seen = mark
	} else {
		f.fails++
		f.retry = time.Now().Add(c.opt.Reconcile.Backoff(f.fails))
	}
	if err == nil {
		f.told = ""
		return
	}
	if text := err.Error(); text != f.told && ctx.Err() == nil {
		f.told = text
		c.opt.Log.Error("desired state of the file is not in force", "file", f.path, "error", err)
	}
}

func (c *Declarer) takeUp(ctx context.Context, f *desiredFile) error {
	state, err := readDesired(f.path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(state)
	digest, last := hex.EncodeToString(sum[:]), ""
	err = c.opt.Store.View(func(tx *store.Tx) (err error) {
		last, _, err = tx.Meta(metaFile)
		return err
	})
	if err != nil || last == digest {
		return err
	}
	doc, accept, err := c.readState(state)
	if err != nil {
		return err
	}
	acc := acceptance{signed: accept, also: func(tx *store.Tx) error { return tx.PutMeta(metaFile, digest) }}
	if _, _, err := c.applyState(mvm.WithAsker(ctx, mvm.Asker{Kind: mvm.AskerReconcile}), doc, mvm.ReconcileRequest{Keep: true}, acc, oneAtATime(nil)); err != nil {
		return err
	}
	c.opt.Log.Info("desired state of the file is in force", "file", f.path)
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
