package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// source is a package as the compiler sees it, without its tests.
type source struct {
	name  string // slash-separated, relative to the module
	path  string // as it is imported
	dir   string
	fset  *token.FileSet
	files []*file
	types *types.Package
	info  *types.Info
	uses  types.Importer
}

type file struct {
	name   string // slash-separated, relative to the module
	text   string
	syntax *ast.File
}

// load reads packages and finds out the types of all that they say.
func load(root string, names []string) ([]*source, error) {
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", "os", "strconv", "sync/atomic"} // the chooser uses these
	for _, n := range names {
		args = append(args, "./"+n)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	var bad bytes.Buffer
	cmd.Stderr = &bad
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w\n%s", err, bad.String())
	}
	exports := map[string]string{}
	fset := token.NewFileSet()
	uses := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	all := make([]*source, len(names))
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var one struct {
			ImportPath, Dir, Export string
			GoFiles                 []string
		}
		err := dec.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		exports[one.ImportPath] = one.Export
		rel, err := filepath.Rel(root, one.Dir)
		if i := slices.Index(names, filepath.ToSlash(rel)); i >= 0 && err == nil {
			all[i] = &source{name: names[i], path: one.ImportPath, dir: one.Dir, fset: fset, uses: uses}
			for _, name := range one.GoFiles {
				all[i].files = append(all[i].files, &file{name: names[i] + "/" + name})
			}
		}
	}
	for i, p := range all {
		if p == nil {
			return nil, fmt.Errorf("there is no package %s", names[i])
		}
		if err := p.read(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (p *source) read() error {
	for _, f := range p.files {
		path := filepath.Join(p.dir, filepath.Base(f.name))
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f.text = string(src)
		if f.syntax, err = parser.ParseFile(p.fset, path, src, parser.SkipObjectResolution); err != nil {
			return err
		}
	}
	p.info = &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	var syntax []*ast.File
	for _, f := range p.files {
		syntax = append(syntax, f.syntax)
	}
	var err error
	p.types, err = (&types.Config{Importer: p.uses}).Check(p.path, p.fset, syntax, p.info)
	return err
}
