// Package program makes a folder that is a dir: image of somebody's own program: the program,
// what it needs beside it, and how it is run. It needs neither root nor an agent, and says
// what of a program can't run in a guest before it writes anything.
//
// The same program and description give the same bytes, on whatever machine.
package program

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image"
	"mvm/internal/manifest"
)

// DefaultFrom is the image that programs are added to unless another one is named.
const DefaultFrom = "builtin:minimal"

const (
	serviceName = "app"
	binaryDir   = "/usr/bin"
	// readySecs is how long a program may take until it is ready, before it is started
	// again. Without KVM a start takes many times as long as with it.
	readySecs = 180
)

// Result is what was made.
type Result struct {
	Ref     string   `json:"ref"`     // "dir:/…"
	Digest  string   `json:"digest"`  // of image.json: another one whenever something has changed
	Command []string `json:"command"` // as it is run
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Changed bool     `json:"changed"` // false: the folder was the same already
	Notes   []string `json:"notes"`   // what only the guest can tell, or was added
}

// Build makes the folder. One that is there must be an earlier one: it is replaced whole, or
// on an error left as it is.
func Build(ctx context.Context, p manifest.Program, folder string) (Result, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return Result{}, mvm.Errorf(mvm.KindInvalid, "image build: %w", err)
	}
	if p.From == "" {
		p.From = DefaultFrom
	}
	if p.Name == "" {
		p.Name = filepath.Base(folder)
	}
	if err := replaceable(folder); err != nil {
		return Result{}, err
	}
	b := build{p: p, tree: tree{}, notes: []string{}}
	if err := b.collect(ctx); err != nil {
		return Result{}, err
	}
	r := Result{Ref: image.DirBuilder{}.Scheme() + folder, Command: b.p.Command, Files: b.tree.files(), Bytes: b.tree.bytes(), Notes: b.notes}
	r.Digest, r.Changed, err = b.write(ctx, folder)
	return r, err
}

// build is one run of Build.
type build struct {
	p     manifest.Program
	tree  tree
	notes []string
}

// bare reports that the image has no libraries and no interpreters but busybox.
func (b *build) bare() bool { return b.p.From == DefaultFrom || b.p.From == "builtin:gateway" }

func (b *build) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// collect puts together what the image has, and refuses what can't run.
func (b *build) collect(ctx context.Context) error {
	if b.p.Binary == "" && len(b.p.Command) == 0 {
		return mvm.Errorf(mvm.KindInvalid, "image build: nothing to run").WithFix("give the program with --binary, or a command of the image with --cmd")
	}
	if b.p.Ready != "" && b.p.Port == 0 {
		return mvm.Errorf(mvm.KindInvalid, "image build: ready path %s needs a port to ask at", b.p.Ready).WithFix("add --port")
	}
	for _, f := range b.p.Files {
		if err := b.tree.add(ctx, f); err != nil {
			return err
		}
	}
	if b.p.Binary != "" {
		if err := b.addBinary(ctx); err != nil {
			return err
		}
	}
	if err := b.checkUser(); err != nil {
		return err
	}
	if err := b.addService(); err != nil {
		return err
	}
	return b.tree.check()
}

// checkUser refuses a name that the image is known not to have.
func (b *build) checkUser() error {
	name := b.p.User
	if name == "" {
		return nil
	}
	if _, err := strconv.Atoi(name); err == nil || !b.bare() || b.tree["/etc/passwd"] != nil {
		return nil
	}
	if name == "root" || name == "nobody" || slices.ContainsFunc([]rune(name), func(r rune) bool { return r == ':' }) {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "image build: user %q is not in %s, which has only root and nobody", name, b.p.From).
		WithFix("use a number, such as --user 1000, or add an /etc/passwd with --file")
}

// addBinary adds the program, and what its loader needs where the image has none of it.
func (b *build) addBinary(ctx context.Context) error {
	to := path.Join(binaryDir, filepath.Base(b.p.Binary))
	what, err := inspect(b.p.Binary)
	if err != nil {
		return err
	}
	if err := b.tree.add(ctx, manifest.ProgramFile{Source: b.p.Binary, Path: to, Mode: 0o755}); err != nil {
		return err
	}
	switch base := filepath.Base(b.p.Binary); {
	case len(b.p.Command) == 0:
		b.p.Command = []string{to}
	case b.p.Command[0] == base || b.p.Command[0] == "./"+base || b.p.Command[0] == b.p.Binary:
		b.p.Command = append([]string{to}, b.p.Command[1:]...)
	}
	if what.script != "" {
		return b.checkInterpreter(what.script)
	}
	if what.loader == "" {
		return nil
	}
	if !b.bare() {
		b.note("%s is linked dynamically; %s must have %s", b.p.Binary, b.p.From, listed(append([]string{what.loader}, what.needs...)))
		return nil
	}
	return b.addLibraries(ctx, what)
}

// checkInterpreter refuses a script whose interpreter the image is known not to have.
func (b *build) checkInterpreter(interpreter string) error {
	if !b.bare() || b.tree[interpreter] != nil || slices.Contains([]string{"/bin/sh", "/bin/ash", "/bin/busybox"}, interpreter) {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "image build: script %s needs %s, which %s does not have", b.p.Binary, interpreter, b.p.From).
		WithFix("add the program to a container image that has it, with --from oci:HOST/NAME:TAG")
}

// addService writes the definition of the program's service.
func (b *build) addService() error {
	stop := strings.TrimPrefix(strings.ToUpper(b.p.Stop), "SIG")
	env := map[string]string{}
	if b.p.Port != 0 {
		env["PORT"] = strconv.Itoa(b.p.Port)
	}
	maps.Copy(env, b.p.Env)
	s := definition.Service{Name: serviceName, Command: b.p.Command, User: b.p.User, Dir: b.p.Dir, Env: env, StopSignal: stop}
	if s.Dir == "" {
		s.Dir = "/"
	}
	switch at := "127.0.0.1:" + strconv.Itoa(b.p.Port); {
	case b.p.Ready != "":
		s.Ready = &definition.Ready{HTTP: "http://" + at + b.p.Ready, IntervalMS: 200, TimeoutSecs: readySecs}
	case b.p.Port != 0:
		s.Ready = &definition.Ready{TCP: at, IntervalMS: 200, TimeoutSecs: readySecs}
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if _, err := definition.All(map[string][]byte{serviceName: text}); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "image build: %w", err)
	}
	if b.p.Dir != "" && b.p.Dir != "/" {
		b.tree.folder(path.Clean(b.p.Dir))
	}
	b.tree[definition.Dir+"/"+serviceName+".json"] = &node{mode: typeFile | 0o644, content: append(text, '\n')}
	return nil
}
