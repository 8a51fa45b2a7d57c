package store

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/sys"
)

// The operations that Options.Seam is told of.
const (
	SeamOpen      = "open"      // before the file is opened
	SeamMigrate   = "migrate"   // before a migration, within its transaction
	SeamBegin     = "begin"     // before an Update takes its turn; nothing is held yet
	SeamView      = "view"      // before a View begins; nothing is held yet
	SeamUpdate    = "update"    // before the function of an Update is called
	SeamCommit    = "commit"    // after the function, before anything is durable
	SeamCommitted = "committed" // after it is durable, before Update returns
)

// Options change how a Store works. The zero value is right for an agent.
type Options struct {
	// LockTimeout is how long Open waits for another agent to let go of the file;
	// 0 means two seconds.
	LockTimeout time.Duration
	// UIDBase and UIDCount bound what AllocUID gives; 0 means DefaultUIDBase and
	// DefaultUIDCount.
	UIDBase, UIDCount int
	// AuditKey seals the ends of the audit log, so that who can write to the file and
	// does not have the key can't rewrite the log. Empty: the log is chained only.
	AuditKey []byte
	// KeyID names the master key that secrets are sealed with. A state of another one is
	// not opened, except of ReplacesKey, whose secrets are given up. Empty: any.
	KeyID, ReplacesKey string
	// Seam is called with the name of an operation (Seam…) right before it; an
	// error from it fails exactly that operation. It may be nil.
	Seam func(op string) error
}

// The default users of VMMs: a range that neither systemd, subordinate ids nor
// Debian give to anyone.
const (
	DefaultUIDBase  = 0x70000000
	DefaultUIDCount = 1 << 16
)

// Store is the open state file. It may be used from many goroutines.
type Store struct {
	db   *bbolt.DB
	path string
	opts Options

	writing  sync.Mutex // one Update at a time, up to where it is known here
	mu       sync.Mutex
	head     audit.Mark    // the last entry of the audit log; written under both locks
	appended chan struct{} // closed by the next commit with events
	reserved int64         // bytes of the file that have blocks
	fleet    fleet
}

// Open opens the state file, makes it (0600, with its folder, 0700) when it is not
// there, and migrates an older schema. KindState: another agent has the file, or
// it is of a newer mvm.
func Open(path string) (*Store, error) { return OpenWith(path, Options{}) }

// OpenWith is Open with Options.
func OpenWith(path string, opts Options) (s *Store, err error) {
	err = guarded(path, func() error {
		if s, err = open(path, opts, migrations()); err != nil {
			return err
		}
		if err := s.checkKey(); err != nil {
			return err
		}
		if err := errors.Join(s.openChain(), s.keepKey()); err != nil {
			return openError(path, err)
		}
		return nil
	})
	if err != nil && s != nil {
		return nil, errors.Join(err, guarded(path, s.Close))
	}
	return s, err
}

func open(path string, opts Options, ms []migration) (*Store, error) {
	s := &Store{path: path, opts: opts.withDefaults(), appended: make(chan struct{})}
	if err := s.seam(SeamOpen); err != nil {
		return nil, openError(path, err)
	}
	if err := sys.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, openError(path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      s.opts.LockTimeout,
		FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, openError(path, err)
	}
	s.db = db
	if err := errors.Join(sys.SyncDir(filepath.Dir(path)), s.migrate(ms), s.countFleet()); err != nil {
		return nil, errors.Join(openError(path, err), db.Close())
	}
	s.reserve(db)
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.LockTimeout == 0 {
		o.LockTimeout = 2 * time.Second
	}
	if o.UIDBase == 0 {
		o.UIDBase = DefaultUIDBase
	}
	if o.UIDCount == 0 {
		o.UIDCount = DefaultUIDCount
	}
	return o
}

func openError(path string, err error) error {
	var known *mvm.Error
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return mvm.Errorf(mvm.KindState, "open state %s: another agent uses it", path).
			WithFix("stop the other agent, or give this one its own data directory")
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return damagedError(path, err)
	case errors.Is(err, fs.ErrPermission):
		return mvm.Errorf(mvm.KindInternal, "open state %s: %w", path, err).WithFix("run the agent as root")
	case errors.As(err, &known):
		return mvm.Errorf(known.Kind, "open state %s: %w", path, err)
	}
	return writeError("open", path, err)
}

// writeError says what failed, and of a full disk what to do.
func writeError(verb, path string, err error) error {
	e := mvm.Errorf(mvm.KindInternal, "%s state %s: %w", verb, path, err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return e.WithFix("free space on the file system of %s; nothing was changed", filepath.Dir(path))
	}
	return e
}

// Path returns the path of the state file.
func (s *Store) Path() string { return s.path }

// Close waits for Views and the Update under way and lets go of the file. The
// Store must not be used after that; closing twice is fine.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return writeError("close", s.path, err)
	}
	return nil
}

// View calls fn with a read-only transaction, on the state as it is now. An error
// of fn is returned as it is.
func (s *Store) View(fn func(*Tx) error) error {
	if err := s.seam(SeamView); err != nil {
		return writeError("use", s.path, err)
	}
	b, err := s.db.Begin(false)
	if err != nil {
		return s.beginError(err)
	}
	defer b.Rollback() //nolint:errcheck // ending a read-only transaction has nothing to lose
	return fn(&Tx{b: b, s: s})
}

// Update calls fn once with a transaction and commits what it did. When fn returns
// an error nothing is changed and the error is returned as it is; when the commit
// fails nothing is changed and the error says so.
func (s *Store) Update(fn func(*Tx) error) error {
	if err := s.seam(SeamBegin); err != nil {
		return writeError("update", s.path, err)
	}
	if err := s.commit(fn); err != nil {
		return err
	}
	if err := s.seam(SeamCommitted); err != nil {
		return writeError("update", s.path, err)
	}
	return nil
}

func (s *Store) commit(fn func(*Tx) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	b, err := s.db.Begin(true)
	if err != nil {
		return s.beginError(err)
	}
	defer b.Rollback() //nolint:errcheck // after a commit this does nothing but say so
	tx := &Tx{b: b, s: s}
	if err := s.seam(SeamUpdate); err != nil {
		return writeError("update", s.path, err)
	}
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.sealChain(); err != nil {
		return err
	}
	if err := s.seam(SeamCommit); err != nil {
		return writeError("update", s.path, err)
	}
	if err := b.Commit(); err != nil {
		return writeError("update", s.path, err)
	}
	s.committed(tx)
	return nil
}

// NewEvents returns a channel that is closed when the next event has become
// durable. Take it before reading the events that are there, and none is missed.
func (s *Store) NewEvents() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.appended
}

func (s *Store) committed(tx *Tx) {
	s.mu.Lock()
	s.fleet.merge(tx.fleet)
	if tx.log != nil {
		s.head = tx.log.Head
	}
	if tx.appended {
		close(s.appended)
		s.appended = make(chan struct{})
	}
	s.mu.Unlock()
	s.reserve(s.db)
}

func (s *Store) beginError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return mvm.Errorf(mvm.KindUnavailable, "use state %s: it is closed: %w", s.path, err)
	}
	return writeError("use", s.path, err)
}

func (s *Store) seam(op string) error {
	if s.opts.Seam == nil {
		return nil
	}
	return s.opts.Seam(op)
}
