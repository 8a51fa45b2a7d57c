package builtin

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"mvm"
	"mvm/internal/image/boot"
)

const (
	packageName = "package.json"
	lockName    = "package-lock.json"
	lockSpace   = 64 << 20 // taken while a lock is made
	lockTimeout = 5 * time.Minute
)

// openclawLock pins all modules of a version of OpenClaw. The zero value is the lock of the
// version that mvm comes with.
type openclawLock struct {
	dir string // the folder of a lock that a build has made; "": mvm's own
}

// open opens a file of the openclaw folder: of the lock, or mvm's own.
func (l openclawLock) open(name string) (fs.File, error) {
	if l.dir != "" && (name == packageName || name == lockName) {
		return os.Open(filepath.Join(l.dir, name))
	}
	return openclawFiles.Open(path.Join(openclawName, name))
}

// read is open for the content.
func (l openclawLock) read(name string) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return b, err
}

// openclawPackage is the package.json of what builtin:openclaw runs.
type openclawPackage struct {
	Name         string            `json:"name"`
	Version      string            `json:"version"`
	Private      bool              `json:"private"`
	Description  string            `json:"description"`
	Dependencies map[string]string `json:"dependencies"`
}

// openclawLock returns the lock of a version. One that mvm does not come with is made with
// npm, once, and kept: each build of the version then has the same modules.
func (b *Builder) openclawLock(ctx context.Context, wanted string, progress func(mvm.Progress)) (openclawLock, error) {
	var own openclawLock
	text, err := own.read(packageName)
	if err != nil {
		return own, err
	}
	var p openclawPackage
	if err := json.Unmarshal(text, &p); err != nil {
		return own, err
	}
	if wanted == "" || wanted == p.Dependencies[openclawName] {
		return own, nil
	}
	p.Dependencies[openclawName] = wanted
	if text, err = json.MarshalIndent(p, "", "  "); err != nil {
		return own, err
	}
	key, err := boot.HashJSON(p)
	if err != nil {
		return own, err
	}
	dir, err := b.base.Part(ctx, "openclaw-lock", key, lockSpace, progress, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, packageName), append(text, '\n'), 0o644); err != nil {
			return err
		}
		progress(mvm.Progress{Text: "finding the modules of OpenClaw " + wanted + " with npm"})
		return makeLock(ctx, dir, wanted)
	})
	return openclawLock{dir}, err
}

// makeLock has npm find the modules of the package in the folder. It runs none of their
// scripts. The lock has their digests, and not where npm found them.
func makeLock(ctx context.Context, dir, wanted string) error {
	npm, err := findNPM()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout,
		mvm.Errorf(mvm.KindUnavailable, "the modules of OpenClaw %s were not found within %s", wanted, lockTimeout).WithFix("build again when the npm registry answers"))
	defer cancel()
	_, err = boot.Run(ctx, dir, npm, "install", "--package-lock-only", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund",
		"--omit-lockfile-registry-resolved", "--loglevel=error")
	if err != nil && strings.Contains(err.Error(), "ETARGET") {
		return mvm.Errorf(mvm.KindNotFound, "there is no OpenClaw %s", wanted).WithFix("`npm view openclaw versions` lists the versions")
	}
	return err
}

func findNPM() (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "build builtin:openclaw: npm is not installed; it downloads OpenClaw").
			WithFix("run apt-get install npm")
	}
	return npm, nil
}
