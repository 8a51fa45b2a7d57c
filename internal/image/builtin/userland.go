package builtin

import (
	"context"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/image/boot"
)

// rootUser and the assistant's user, and their groups, in the root filesystem.
const (
	openclawUID = 1000
	rootPasswd  = "root:x:0:0:root:/root:/bin/bash\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n" +
		"openclaw:x:1000:1000:OpenClaw:/data/home:/bin/bash\n"
	rootGroup   = "root:x:0:\ntty:x:5:\nopenclaw:x:1000:\nnogroup:x:65534:\n"
	rootHosts   = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
	rootNSS     = "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"
	rootProfile = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
)

// userland unpacks the packages into tree. dir holds the downloads meanwhile.
func (b *Builder) userland(ctx context.Context, dir, tree string, debs []boot.Deb, progress func(mvm.Progress)) error {
	if err := skeleton(tree); err != nil {
		return err
	}
	downloads := filepath.Join(dir, "debs")
	if err := os.Mkdir(downloads, 0o755); err != nil {
		return err
	}
	if err := b.base.Download(ctx, downloads, debs, progress); err != nil {
		return err
	}
	for i, d := range debs {
		progress(mvm.Progress{Text: "unpacking packages", Done: int64(i + 1), Total: int64(len(debs))})
		if err := boot.Unpack(ctx, filepath.Join(downloads, d.File), tree); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(downloads); err != nil {
		return err
	}
	return configureUserland(tree)
}

// skeleton makes the folders that packages expect: /bin and its like lead to /usr.
func skeleton(tree string) error {
	for _, d := range []string{
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "dev", "proc", "sys", "run", "mnt", "data", "home", "opt", "var/log",
	} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(tree, d)); err != nil {
			return err
		}
	}
	for dir, perm := range map[string]os.FileMode{"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777} {
		p := filepath.Join(tree, dir)
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(p, perm.Perm()|stickyBit(perm)); err != nil {
			return err
		}
	}
	return nil
}

func stickyBit(perm os.FileMode) os.FileMode {
	if perm&0o1000 != 0 {
		return os.ModeSticky
	}
	return 0
}

// configureUserland does what the packages' scripts would have done, as far as it
// matters here.
func configureUserland(tree string) error {
	for name, content := range map[string]string{
		"etc/passwd": rootPasswd, "etc/group": rootGroup, "etc/hosts": rootHosts, "etc/nsswitch.conf": rootNSS,
		"etc/profile": rootProfile, "etc/hostname": "mvm\n", "etc/resolv.conf": "", "etc/ld.so.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"usr/bin/sh": "dash", "usr/bin/awk": "mawk", "usr/bin/pager": "less", "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
	} {
		p := filepath.Join(tree, link)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		if err := os.Symlink(target, p); err != nil {
			return err
		}
	}
	return boot.CABundle(tree)
}
