package program

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/manifest"
)

// binary is what is known of a program.
type binary struct {
	script string   // interpreter of a script
	loader string   // of a program that is linked dynamically
	needs  []string // libraries that the loader looks for
	paths  []string // where the program tells it to look first
}

// inspect reads what kind of program the file is, and refuses one that no guest can run.
func inspect(file string) (binary, error) {
	refuse := func(format string, args ...any) *mvm.Error {
		return mvm.Errorf(mvm.KindInvalid, "image build: program %s "+format, append([]any{file}, args...)...)
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return binary{}, refuse("does not exist").WithFix("build it first, for example with CGO_ENABLED=0 go build -o %s", file)
	case err != nil:
		return binary{}, refuse("can't be read: %w", err)
	case info.IsDir():
		return binary{}, refuse("is a folder").WithFix("name the program in it; --file adds folders")
	case !info.Mode().IsRegular():
		return binary{}, refuse("is not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return binary{}, refuse("is not executable").WithFix("run chmod +x %s", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return binary{}, refuse("can't be read: %w", err)
	}
	defer f.Close()
	var head [4]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return binary{}, refuse("is empty or too short")
	}
	switch {
	case bytes.Equal(head[:], []byte(elf.ELFMAG)):
		return inspectELF(file, f, refuse)
	case bytes.HasPrefix(head[:], []byte("#!")):
		return inspectScript(f, refuse)
	case bytes.HasPrefix(head[:], []byte("MZ")):
		return binary{}, refuse("is for Windows").WithFix("build it for Linux: GOOS=linux GOARCH=amd64")
	case isMachO(head):
		return binary{}, refuse("is for macOS").WithFix("build it for Linux: GOOS=linux GOARCH=amd64")
	}
	return binary{}, refuse("is neither a Linux program nor a script that begins with #!")
}

func isMachO(head [4]byte) bool {
	return slices.Contains([]string{"\xfe\xed\xfa\xce", "\xfe\xed\xfa\xcf", "\xce\xfa\xed\xfe", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe"}, string(head[:]))
}

func inspectScript(f *os.File, refuse func(string, ...any) *mvm.Error) (binary, error) {
	if _, err := f.Seek(2, io.SeekStart); err != nil {
		return binary{}, err
	}
	line, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return binary{}, err
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return binary{}, refuse("names no interpreter behind #!")
	}
	return binary{script: words[0]}, nil
}

func inspectELF(file string, r io.ReaderAt, refuse func(string, ...any) *mvm.Error) (what binary, err error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return what, refuse("is damaged: %w", err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return what, refuse("is for %s, and images are for x86-64", machineName(f.Machine)).WithFix("build it with GOARCH=amd64, or for the target x86_64-linux")
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return what, refuse("is an object file, not a program")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(b, 0); err != nil {
				return what, refuse("is damaged: %w", err)
			}
			what.loader = string(bytes.TrimRight(b, "\x00"))
		}
	}
	if what.loader == "" {
		return what, nil
	}
	return what, readNeeds(file, f, &what)
}

// readNeeds reads which libraries a program or library needs.
func readNeeds(file string, f *elf.File, what *binary) (err error) {
	if what.needs, err = f.ImportedLibraries(); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "image build: read the libraries that %s needs: %w", file, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			continue // a library without a dynamic section has no paths
		}
		for _, list := range paths {
			for dir := range strings.SplitSeq(list, ":") {
				origin := filepath.Dir(file)
				what.paths = append(what.paths, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir))
			}
		}
	}
	return nil
}

func machineName(m elf.Machine) string {
	switch m {
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_386:
		return "32-bit x86"
	case elf.EM_ARM:
		return "32-bit ARM"
	case elf.EM_RISCV:
		return "RISC-V"
	}
	return strings.TrimPrefix(m.String(), "EM_")
}

// maxLibraries bounds what a program may need.
const maxLibraries = 500

// addLibraries adds the loader of a program and all libraries that it looks for, from this
// machine. In the guest they are in one folder, where the loader looks without being told.
func (b *build) addLibraries(ctx context.Context, what binary) error {
	dirs := libraryDirs()
	found, missing := map[string]string{}, []string{}
	type wanted struct {
		names []string
		paths []string
	}
	for todo := []wanted{{what.needs, what.paths}}; len(todo) > 0; todo = todo[1:] {
		for _, name := range todo[0].names {
			if _, ok := found[name]; ok || name == filepath.Base(what.loader) {
				continue
			}
			file := find(name, slices.Concat(todo[0].paths, dirs))
			if found[name] = file; file == "" {
				missing = append(missing, name)
				continue
			}
			if len(found) > maxLibraries {
				return mvm.Errorf(mvm.KindInvalid, "image build: program %s needs more than %d libraries", b.p.Binary, maxLibraries)
			}
			more, err := needsOf(file)
			if err != nil {
				return err
			}
			todo = append(todo, wanted{more.needs, more.paths})
		}
	}
	if _, err := os.Stat(what.loader); err != nil {
		missing = append(missing, what.loader)
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return mvm.Errorf(mvm.KindInvalid, "image build: program %s is linked dynamically, and this machine does not have %s, which it needs", b.p.Binary, listed(missing)).
			WithFix("link it statically (CGO_ENABLED=0, -static, or a musl target), install what is missing, or use an image that has it with --from")
	}
	to := guestLibraries(found)
	for name, file := range found {
		if err := b.tree.add(ctx, manifest.ProgramFile{Source: file, Path: to + "/" + name, Mode: 0o755}); err != nil {
			return err
		}
	}
	b.note("%s is linked dynamically; its loader and %d libraries of this machine were added (link it statically to leave them out)", b.p.Binary, len(found))
	return b.tree.add(ctx, manifest.ProgramFile{Source: what.loader, Path: what.loader, Mode: 0o755})
}

// guestLibraries is a folder in which the loader looks by itself: the one that has the C
// library here, and /lib without one.
func guestLibraries(found map[string]string) string {
	for _, libc := range []string{"libc.so.6", "libc.musl-x86_64.so.1"} {
		if file := found[libc]; file != "" {
			return filepath.Dir(file)
		}
	}
	return "/lib"
}

func needsOf(file string) (what binary, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return what, mvm.Errorf(mvm.KindInvalid, "image build: library %s is damaged: %w", file, err)
	}
	defer f.Close()
	return what, readNeeds(file, f, &what)
}

// find returns the path of a library for x86-64.
func find(name string, dirs []string) string {
	if strings.Contains(name, "/") {
		return ""
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		fits := f.Machine == elf.EM_X86_64 && f.Class == elf.ELFCLASS64
		if f.Close() == nil && fits {
			return path
		}
	}
	return ""
}

// libraryDirs are the folders in which this machine's loader looks.
func libraryDirs() []string {
	var dirs []string
	files, _ := filepath.Glob("/etc/ld.so.conf.d/*.conf") // the pattern is well-formed
	for _, file := range append(files, "/etc/ld.so.conf") {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
	}
	return append(dirs, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
}

func listed(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
