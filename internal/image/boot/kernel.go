package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/image/vmlinux"
)

const (
	kernelSpace   = 600 << 20 // taken while a kernel package is unpacked
	busyboxSpace  = 16 << 20
	kernelVersion = "1" // of what a kernel part holds
)

// kernelPart returns a folder with vmlinux and every module that some image needs.
func (b *Base) kernelPart(ctx context.Context, d Deb, progress func(mvm.Progress)) (string, error) {
	key, err := HashJSON([]any{kernelVersion, d, baseModules, rootModules, mmioModules})
	if err != nil {
		return "", err
	}
	return b.parts.get(ctx, "kernel", key, kernelSpace, progress, func(dir string) error {
		tree, err := b.fetch(ctx, dir, d, progress)
		if err != nil {
			return err
		}
		progress(mvm.Progress{Text: "unpacking the kernel"})
		if err := extractKernel(tree, filepath.Join(dir, "vmlinux")); err != nil {
			return err
		}
		wanted := slices.Concat(baseModules, rootModules, mmioModules)
		if err := takeModules(filepath.Join(tree, "lib", "modules"), dir, wanted); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
}

// busyboxPart returns a folder with the static busybox.
func (b *Base) busyboxPart(ctx context.Context, d Deb, progress func(mvm.Progress)) (string, error) {
	key, err := HashJSON(d)
	if err != nil {
		return "", err
	}
	return b.parts.get(ctx, "busybox", key, busyboxSpace, progress, func(dir string) error {
		tree, err := b.fetch(ctx, dir, d, progress)
		if err != nil {
			return err
		}
		err = os.Rename(filepath.Join(tree, "bin", "busybox"), filepath.Join(dir, "busybox"))
		if errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(filepath.Join(tree, "usr", "bin", "busybox"), filepath.Join(dir, "busybox"))
		}
		if err != nil {
			return err
		}
		list, err := Run(ctx, dir, filepath.Join(dir, "busybox"), "--list")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "applets"), []byte(list), 0o644); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
}

// certsPart returns a folder with the certificates of public CAs.
func (b *Base) certsPart(ctx context.Context, d Deb, progress func(mvm.Progress)) (string, error) {
	key, err := HashJSON(d)
	if err != nil {
		return "", err
	}
	return b.parts.get(ctx, "certs", key, busyboxSpace, progress, func(dir string) error {
		tree, err := b.fetch(ctx, dir, d, progress)
		if err != nil {
			return err
		}
		if err := CABundle(tree); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(tree, CAFile), filepath.Join(dir, filepath.Base(CAFile))); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
}

// fetch downloads one package and unpacks it into a folder below dir, which the
// caller removes.
func (b *Base) fetch(ctx context.Context, dir string, d Deb, progress func(mvm.Progress)) (string, error) {
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	if err := b.apt.download(ctx, dir, []Deb{d}, progress); err != nil {
		return "", err
	}
	file := filepath.Join(dir, d.File)
	if err := Unpack(ctx, file, tree); err != nil {
		return "", err
	}
	return tree, os.Remove(file)
}

// extractKernel writes the ELF kernel of the only /boot/vmlinuz-* in the tree.
func extractKernel(tree, to string) error {
	found, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("kernel package has %d kernels, not one", len(found))
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer f.Close()
	kernel, err := vmlinux.Extract(f)
	if err != nil {
		return fmt.Errorf("extract kernel: %w", err)
	}
	return os.WriteFile(to, kernel, 0o644)
}

// copyFile copies a file's content.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
