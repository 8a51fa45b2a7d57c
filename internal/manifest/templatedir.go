package manifest

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/spelling"
	"mvm/internal/stricttoml"
)

// maxTemplates bounds the files of a folder of templates that are listed.
const maxTemplates = 256

const templateExt = ".toml"

// ListedTemplate is a template that there is, usable or not.
type ListedTemplate struct {
	Template
	// Replaces: a built-in template has the same name, and this one comes first.
	Replaces bool
	Err      error // why it cannot be used
}

// ListTemplates returns the templates of the folder and the built-in ones, by name. A
// folder that is not there has none.
func ListTemplates(dir string) ([]ListedTemplate, error) {
	names, err := templateFiles(dir)
	if err != nil {
		return nil, err
	}
	var all []ListedTemplate
	for _, name := range names {
		t, err := readTemplateOf(dir, name)
		t.Name, t.Path = name, filepath.Join(dir, name+templateExt)
		all = append(all, ListedTemplate{Template: t, Replaces: slices.Contains(builtinNames, name), Err: err})
	}
	for _, t := range Templates() {
		if !slices.Contains(names, t.Name) {
			all = append(all, ListedTemplate{Template: t})
		}
	}
	slices.SortFunc(all, func(a, b ListedTemplate) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// templateFiles are the names of the templates in a folder, sorted.
func templateFiles(dir string) (names []string, err error) {
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "list templates: %w", err)
	}
	defer f.Close()
	files, err := f.Readdirnames(maxTemplates + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, mvm.Errorf(mvm.KindInvalid, "list templates: %w", err)
	}
	if len(files) > maxTemplates {
		return nil, mvm.Errorf(mvm.KindInvalid, "list templates: %s has more than %d files", dir, maxTemplates)
	}
	for _, file := range files {
		if name, ok := strings.CutSuffix(file, templateExt); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// FindTemplate returns a template by name: the folder's, else the built-in one. An error of
// KindNotFound says which there are. A name with a slash, or that ends with .toml, is the
// path of a file.
func FindTemplate(name, dir string) (Template, error) {
	if strings.ContainsRune(name, '/') || strings.HasSuffix(name, templateExt) {
		return ReadTemplate(name)
	}
	if dir != "" && mvm.ValidateName("template", name) == nil {
		t, err := readTemplateOf(dir, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
	}
	names := slices.Clone(builtinNames)
	for _, t := range Templates() {
		if t.Name == name {
			return t, nil
		}
	}
	own, _ := templateFiles(dir) // for the hint alone
	for _, n := range own {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	hint := ""
	if near := spelling.Nearest(name, names); near != "" {
		hint = " (did you mean " + near + "?)"
	}
	return Template{}, mvm.Errorf(mvm.KindNotFound, "there is no template %q%s", stricttoml.Clip(name), hint).
		WithFix("use one of %s, or the path of a file", strings.Join(names, ", "))
}

// readTemplateOf reads the template of that name in a folder.
func readTemplateOf(dir, name string) (Template, error) {
	path := filepath.Join(dir, name+templateExt)
	t, err := ReadTemplate(path)
	if err == nil && t.Name != name {
		return Template{}, mvm.Errorf(mvm.KindInvalid, "read %s: its name is %q, which must be that of the file", path, t.Name).
			WithFix("rename the file to %s%s, or write name = %q", t.Name, templateExt, name)
	}
	return t, err
}

// ReadTemplate reads the template in a file.
func ReadTemplate(path string) (Template, error) {
	data, err := readFile(path)
	if err != nil {
		return Template{}, err
	}
	t, err := ParseTemplate(path, data)
	if err != nil {
		return Template{}, err
	}
	t.Path = path
	return t, nil
}
