package secrets

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/sys"
)

// Source is where a host's master key is from: one of a file, a systemd credential and
// the environment.
type Source struct {
	File      string // path of the key file
	FileGiven bool   // somebody named File; it is not the default
	DataDir   string // must not hold File
	// Credential is the name of a systemd credential in CredentialDir; empty: none.
	Credential, CredentialDir string
	// Env is the key in base64, as MVM_MASTER_KEY has it; empty: none.
	Env string
}

// FromEnv reports that the key is from the environment.
func (s Source) FromEnv() bool { return s.Env != "" }

// Where says where the key is from, for a person.
func (s Source) Where() string {
	switch {
	case s.FromEnv():
		return "MVM_MASTER_KEY"
	case s.Credential != "":
		return "credential " + s.Credential
	}
	return s.File
}

// Load returns the key, and makes the file where that is the source and is not there.
// KindInvalid where two sources are named; KindPolicy where the key is not to be
// believed or others can get at it.
func (s Source) Load() (*Key, error) {
	if err := s.conflict(); err != nil {
		return nil, err
	}
	switch {
	case s.FromEnv():
		return s.env()
	case s.Credential != "":
		return s.credential()
	}
	if err := s.outside(); err != nil {
		return nil, err
	}
	return LoadOrCreateKey(s.File)
}

// Check is Load without making a key: a file that is not there yet is fine where its
// folder is.
func (s Source) Check() error {
	if s.FromEnv() || s.Credential != "" || s.conflict() != nil {
		_, err := s.Load()
		return err
	}
	if err := s.outside(); err != nil {
		return err
	}
	if _, err := LoadKey(s.File); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := sys.Guard{What: "master key"}.CheckFolder(filepath.Dir(s.File), s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// conflict refuses two sources at once: a start that picks one is a start with a key
// that somebody did not mean.
func (s Source) conflict() error {
	var named []string
	if s.FromEnv() {
		named = append(named, "MVM_MASTER_KEY")
	}
	if s.Credential != "" {
		named = append(named, "key_credential")
	}
	if s.FileGiven {
		named = append(named, "key_file")
	}
	if len(named) < 2 {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "load master key: it is set by both %s and %s", named[0], named[1]).WithFix("set only one of them")
}

func (s Source) env() (*Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s.Env)
	if err != nil || len(b) != KeySize {
		return nil, mvm.Errorf(mvm.KindInvalid, "load master key: MVM_MASTER_KEY is not base64 of %d bytes", KeySize).
			WithFix("create one with `head -c %d /dev/urandom | base64`", KeySize)
	}
	return NewKey(b)
}

// credential reads what systemd made for this unit: in a folder that nobody else can
// write to, readable for the unit's user by owner, group or ACL (which shows as 0440).
func (s Source) credential() (*Key, error) {
	if s.CredentialDir == "" {
		return nil, mvm.Errorf(mvm.KindPolicy, "load master key: systemd gave this process no credentials").
			WithFix("put LoadCredential=%s:FILE or LoadCredentialEncrypted=%s:FILE into the agent's unit", s.Credential, s.Credential)
	}
	if !filepath.IsAbs(s.CredentialDir) || !filepath.IsLocal(s.Credential) {
		return nil, mvm.Errorf(mvm.KindInvalid, "load master key: CREDENTIALS_DIRECTORY %.100q has no credential %.100q", s.CredentialDir, s.Credential)
	}
	path := filepath.Join(s.CredentialDir, s.Credential)
	b, err := sys.ReadGuarded(path, sys.Guard{What: "master key", Limit: KeySize, Forbid: 0o027, RootToo: true})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, mvm.Errorf(mvm.KindPolicy, "load master key: systemd gave this process no credential %s", s.Credential).
			WithFix("put LoadCredential=%s:FILE into the agent's unit", s.Credential)
	case err != nil:
		return nil, err
	case len(b) != KeySize:
		return nil, refuseKey(path, fmt.Sprintf("it does not have %d bytes", KeySize))
	}
	return NewKey(b)
}

// outside refuses a file in the data directory, symlinks followed: a copy of that would
// give the secrets away.
func (s Source) outside() error {
	if s.DataDir == "" {
		return nil
	}
	data, file := real(s.DataDir), real(filepath.Dir(s.File))
	if rel, err := filepath.Rel(data, file); err == nil && filepath.IsLocal(rel) {
		return refuseKey(s.File, "it is in the data directory "+data).WithFix("keep it in another folder, such as /etc/mvm")
	}
	return nil
}

// real is the path without symlinks, as far as it exists.
func real(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	if up := filepath.Dir(path); up != path {
		return filepath.Join(real(up), filepath.Base(path))
	}
	return path
}

// TakeEnv returns MVM_MASTER_KEY and takes it out of this process's environment, so
// that no child gets it.
func TakeEnv() string {
	v := os.Getenv("MVM_MASTER_KEY")
	_ = os.Unsetenv("MVM_MASTER_KEY")
	return v
}
