package boot

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Modules that the images load, in this order, each after what it needs. The virtio
// core comes first: nothing names it as a dependency of the devices that it finds.
var (
	baseModules = []string{
		"virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
		"virtio_console", "virtio_blk", "virtio_net",
	}
	rootModules = []string{"erofs", "overlay"}
	// mmioModules are for machines without PCI, such as Firecracker's. virtio_mmio comes last:
	// it finds the devices for which the others are.
	mmioModules = []string{"vmw_vsock_virtio_transport", "virtio_balloon", "virtio_rng", "virtio_mmio"}
)

const moduleSuffix = ".ko"

// moduleName gives the name as the kernel says it: '-' in file names is '_'.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), moduleSuffix), "-", "_")
}

// takeModules copies the wanted modules and all that they need from the modules tree
// to dir/<name>.ko.
func takeModules(tree, dir string, wanted []string) error {
	files := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, moduleSuffix) {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read kernel modules: %w", err)
	}
	order, err := loadOrder(wanted, func(name string) string { return files[name] })
	if err != nil {
		return err
	}
	for _, name := range order {
		if err := copyFile(files[name], filepath.Join(dir, name+moduleSuffix)); err != nil {
			return fmt.Errorf("copy kernel module: %w", err)
		}
	}
	return nil
}

// loadOrder returns the wanted modules with all that they need, each after its
// dependencies. file gives a module's path, "" for one that is not there.
func loadOrder(wanted []string, file func(name string) string) ([]string, error) {
	var order []string
	state := map[string]int{} // 1: being visited, 2: in order
	var visit func(name, by string) error
	visit = func(name, by string) error {
		switch state[name] {
		case 1:
			return fmt.Errorf("kernel module %s depends on itself", name)
		case 2:
			return nil
		}
		state[name] = 1
		path := file(name)
		if path == "" {
			return fmt.Errorf("kernel package has no module %s, which %s needs", name, by)
		}
		deps, soft, err := moduleDeps(path)
		if err != nil {
			return fmt.Errorf("read kernel module %s: %w", name, err)
		}
		for _, d := range soft {
			if file(d) != "" { // else it is built in, or can be done without
				deps = append(deps, d)
			}
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name, "the image"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDeps reads what a module needs from its .modinfo section: strictly, and what
// it would like to have before it.
func moduleDeps(path string) (strict, soft []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if v, ok := strings.CutPrefix(field, "depends="); ok && v != "" {
			for d := range strings.SplitSeq(v, ",") {
				strict = append(strict, moduleName(d))
			}
		}
		if v, ok := strings.CutPrefix(field, "softdep=pre: "); ok {
			v, _, _ = strings.Cut(v, " post:")
			for d := range strings.FieldsSeq(v) {
				soft = append(soft, moduleName(d))
			}
		}
	}
	return strict, soft, nil
}

// moduleIn finds modules in a kernel part.
func moduleIn(dir string) func(name string) string {
	return func(name string) string {
		path := filepath.Join(dir, name+moduleSuffix)
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
}
