package boot

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm/internal/image"
	"mvm/internal/image/cpio"
)

const initrdFile = "initrd"

// ModulesFile lists the modules to load in the guest, one absolute path per line in
// the order of loading.
const ModulesFile = "/etc/mvm/modules"

// MMIOModulesFile lists those to load beside them in a machine without PCI.
const MMIOModulesFile = "/etc/mvm/modules-mmio"

const guestModules = "/lib/modules"

//go:embed minimal/app.json
var minimalService string

const (
	initrdPasswd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
	initrdGroup  = "root:x:0:\nnogroup:x:65534:\n"
	initrdHosts  = "127.0.0.1 localhost\n::1 localhost\n"
	profile      = "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\nexport HOME=/root\n"
)

// initrd says what goes into an initrd. It is not compressed: unpacking costs the
// guest more than reading.
type initrd struct {
	guest   string   // path of mvm-guest on the host
	kernel  string   // kernel part
	modules []string // to load, without what they need
	busybox string   // busybox part, "" for none
	certs   string   // certs part, "" for none
}

// write makes the initrd in dir.
func (rd initrd) write(ctx context.Context, dir string) (image.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, initrdFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return image.File{}, err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	w := cpio.NewWriter(out)
	err = errors.Join(rd.base(w), rd.addModules(w), rd.addBusybox(w), rd.addCerts(w), w.Close(), out.Flush(), f.Close())
	if err != nil {
		return image.File{}, fmt.Errorf("write initrd: %w", err)
	}
	return image.Measure(ctx, dir, initrdFile)
}

func (rd initrd) base(w *cpio.Writer) error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/data", "/mnt", "/etc/mvm/services", "/var/log", guestModules} {
		if err := w.MkdirAll(d); err != nil {
			return err
		}
	}
	return errors.Join(
		w.Dir("/root", 0o700),
		w.Dir("/tmp", 0o1777),
		w.Char("/dev/console", 0o600, 5, 1), // the kernel opens it before anything is mounted
		w.Char("/dev/null", 0o666, 1, 3),
		w.Bytes("/etc/passwd", 0o644, initrdPasswd),
		w.Bytes("/etc/group", 0o644, initrdGroup),
		w.Bytes("/etc/hosts", 0o644, initrdHosts),
		addFile(w, "/init", 0o755, rd.guest),
	)
}

func (rd initrd) addModules(w *cpio.Writer) error {
	order, err := loadOrder(rd.modules, moduleIn(rd.kernel))
	if err != nil {
		return err
	}
	all, err := loadOrder(slices.Concat(rd.modules, mmioModules), moduleIn(rd.kernel))
	if err != nil {
		return err
	}
	var list, further strings.Builder
	for _, name := range all {
		path := guestModules + "/" + name + moduleSuffix
		if err := addFile(w, path, 0o644, filepath.Join(rd.kernel, name+moduleSuffix)); err != nil {
			return err
		}
		if slices.Contains(order, name) {
			list.WriteString(path + "\n")
		} else {
			further.WriteString(path + "\n")
		}
	}
	return errors.Join(w.Bytes(ModulesFile, 0o644, list.String()), w.Bytes(MMIOModulesFile, 0o644, further.String()))
}

func (rd initrd) addBusybox(w *cpio.Writer) error {
	if rd.busybox == "" {
		return nil
	}
	applets, err := os.ReadFile(filepath.Join(rd.busybox, "applets"))
	if err != nil {
		return err
	}
	if err := errors.Join(
		w.MkdirAll("/bin"),
		addFile(w, "/bin/busybox", 0o755, filepath.Join(rd.busybox, "busybox")),
		w.Bytes("/etc/profile", 0o644, profile),
		w.Bytes("/etc/mvm/services/app.json", 0o644, minimalService),
	); err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if name == "busybox" || strings.ContainsAny(name, "/.") {
			continue
		}
		if err := w.Symlink("/bin/"+name, "busybox"); err != nil {
			return err
		}
	}
	return nil
}

func (rd initrd) addCerts(w *cpio.Writer) error {
	if rd.certs == "" {
		return nil
	}
	return errors.Join(w.MkdirAll("/"+filepath.Dir(CAFile)), addFile(w, "/"+CAFile, 0o644, filepath.Join(rd.certs, filepath.Base(CAFile))))
}

func addFile(w *cpio.Writer, name string, perm uint32, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return w.File(name, perm, info.Size(), f)
}
