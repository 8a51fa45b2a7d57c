package boot

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"mvm"
)

// FindGuestBinary returns the path of mvm-guest: the explicit one when it is not
// empty, else the one beside the running program, else the one in /usr/lib/mvm. It
// must be a static x86-64 program, because it runs before anything is mounted.
func FindGuestBinary(explicit string) (string, error) {
	if explicit != "" {
		path, err := filepath.Abs(explicit)
		if err != nil {
			return "", err
		}
		return path, checkStatic(path)
	}
	places := []string{"/usr/lib/mvm/mvm-guest", "/usr/local/lib/mvm/mvm-guest"}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		places = append([]string{filepath.Join(filepath.Dir(exe), "mvm-guest")}, places...)
	}
	for _, path := range places {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, checkStatic(path)
		}
	}
	return "", mvm.Errorf(mvm.KindNotFound, "mvm-guest not found in %v", places).
		WithFix("run make build, or set its path with --guest-binary")
}

func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "guest agent %s is not a program: %w", path, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return mvm.Errorf(mvm.KindInvalid, "guest agent %s is for %s, not x86-64", path, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return mvm.Errorf(mvm.KindInvalid, "guest agent %s is not static", path).
				WithFix("build it with CGO_ENABLED=0")
		}
	}
	return nil
}

func HashReader(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
