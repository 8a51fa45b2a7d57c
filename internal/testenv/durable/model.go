package durable

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
)

// call is a system call that succeeded.
type call struct {
	name   string
	args   []string
	result string
}

var line = regexp.MustCompile(`^(\w+)\((.*)\)\s+= ([0-9]+.*)$`)

// parse reads a line of strace; ok is false for a call that failed.
func parse(text string) (c call, ok bool) {
	m := line.FindStringSubmatch(text)
	if m == nil {
		return call{}, false
	}
	return call{m[1], split(m[2]), m[3]}, true
}

// split divides arguments at commas outside of strings, brackets and paths of files.
func split(s string) (args []string) {
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("<[{(", c) >= 0:
			depth++
		case strings.IndexByte(">]})", c) >= 0:
			depth--
		case c == ',' && depth == 0:
			args = append(args, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(args, strings.TrimSpace(s[from:]))
}

func (c call) arg(i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

// file is the path of an open file: 5</a/path>.
func file(arg string) string {
	_, path, ok := strings.Cut(arg, "<")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(strings.TrimSuffix(path, ">"), ">(deleted)")
}

// at is the path that a folder and a name stand for.
func at(dir, name string) string {
	name = strings.Trim(name, `"`)
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(file(dir), name)
}

// model is what is on the disk, and what of it would outlive a crash of the host.
type model struct {
	root    string
	except  []Exception
	there   map[string]bool
	content map[string]string // files written to since they were synced, with the call
	names   map[string]string // names made since their folder was synced, with the call
	syncs   map[string]int
	early   []string // names that were given to content that was not durable
	changes int
}

// counts reports whether the path has to be durable.
func (m *model) counts(path string) bool {
	rel, err := filepath.Rel(m.root, path)
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	for _, e := range m.except {
		for p := rel; p != "."; p = filepath.Dir(p) {
			if ok, _ := filepath.Match(e.Path, p); ok {
				return false
			}
		}
	}
	return true
}

func (m *model) apply(c call) {
	switch c.name {
	case "open", "creat", "openat", "openat2":
		m.opened(c)
	case "fallocate":
		if c.arg(1) != "FALLOC_FL_KEEP_SIZE" { // which takes space and changes nothing
			m.wrote(file(c.arg(0)), c)
		}
	case "write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "sendfile":
		m.wrote(file(c.arg(0)), c)
	case "copy_file_range", "splice":
		m.wrote(file(c.arg(2)), c)
	case "truncate":
		m.wrote(at("", c.arg(0)), c)
	case "fsync", "fdatasync":
		m.synced(file(c.arg(0)))
	case "sync", "syncfs":
		m.content, m.names = map[string]string{}, map[string]string{}
	case "mkdir":
		m.made(at("", c.arg(0)), c)
	case "mkdirat":
		m.made(at(c.arg(0), c.arg(1)), c)
	case "symlink":
		m.made(at("", c.arg(1)), c)
	case "symlinkat":
		m.made(at(c.arg(1), c.arg(2)), c)
	case "link", "rename":
		m.moved(at("", c.arg(0)), at("", c.arg(1)), c)
	case "linkat", "renameat", "renameat2":
		m.moved(at(c.arg(0), c.arg(1)), at(c.arg(2), c.arg(3)), c)
	case "unlink", "rmdir":
		m.removed(at("", c.arg(0)))
	case "unlinkat":
		m.removed(at(c.arg(0), c.arg(1)))
	}
}

func (c call) String() string { return fmt.Sprintf("%s(%s)", c.name, strings.Join(c.args, ", ")) }

func (m *model) opened(c call) {
	all := strings.Join(c.args, " ")
	path := file(c.result)
	if !m.counts(path) || !strings.Contains(all, "O_CREAT") && c.name != "creat" && !strings.Contains(all, "O_TRUNC") {
		return
	}
	switch {
	case !m.there[path]:
		m.made(path, c)
	case strings.Contains(all, "O_TRUNC") || c.name == "creat":
		m.wrote(path, c)
	}
}

func (m *model) wrote(path string, c call) {
	if m.counts(path) {
		m.changes++
		m.content[path] = c.String()
	}
}

func (m *model) made(path string, c call) {
	m.there[path] = true
	if m.counts(path) {
		m.changes++
		m.names[path] = c.String()
	}
}

func (m *model) synced(path string) {
	m.syncs[path]++
	delete(m.content, path)
	for name := range m.names {
		if filepath.Dir(name) == path {
			delete(m.names, name)
		}
	}
}

// below returns the keys that are the path or in it.
func below[V any](in map[string]V, path string) (keys []string) {
	for k := range maps.Keys(in) {
		if k == path || strings.HasPrefix(k, path+"/") {
			keys = append(keys, k)
		}
	}
	return keys
}

func (m *model) removed(path string) {
	for _, k := range below(m.content, path) {
		delete(m.content, k)
	}
	for _, k := range below(m.names, path) {
		delete(m.names, k)
	}
	delete(m.there, path)
}

// moved is a rename or a link: the content gets a name.
func (m *model) moved(from, to string, c call) {
	if m.counts(to) {
		for _, k := range below(m.content, from) {
			m.early = append(m.early, fmt.Sprintf("%s got its name before its content was durable: nothing synced %s after %s", to, k, m.content[k]))
		}
		for _, k := range below(m.names, from) {
			if k != from {
				m.early = append(m.early, fmt.Sprintf("%s got its name before what is in it was durable: nothing synced the folder of %s after %s", to, k, m.names[k]))
			}
		}
	}
	content, names := move(m.content, from, to), move(m.names, from, to)
	m.syncs[to] = m.syncs[from] // of what has the name now
	if c.name != "link" && c.name != "linkat" {
		m.removed(from)
	}
	m.removed(to)
	for k, v := range content {
		if m.counts(k) {
			m.content[k] = v
		}
	}
	for k, v := range names {
		if m.counts(k) {
			m.names[k] = v
		}
	}
	m.made(to, c)
}

// move is what of in is below from, as it is called below to.
func move(in map[string]string, from, to string) map[string]string {
	out := map[string]string{}
	for _, k := range below(in, from) {
		out[to+strings.TrimPrefix(k, from)] = in[k]
	}
	return out
}
