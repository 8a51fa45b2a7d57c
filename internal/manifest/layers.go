package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"mvm/internal/stricttoml"
)

// layers collects the values of the sources, the strongest last.
type layers struct {
	values, origins map[string]string
	problems        Problems
}

func (l *layers) set(key, value, origin string) { l.values[key], l.origins[key] = value, origin }

// LoadAgentConfig reads the agent's config from its sources. Everything that is
// wrong in any of them is told.
func LoadAgentConfig(src AgentSources) (AgentConfig, error) {
	l := &layers{values: map[string]string{}, origins: map[string]string{}}
	for _, k := range agentKeys() {
		l.set(k.name, k.value, "default")
	}
	if err := l.file(src); err != nil {
		return AgentConfig{}, err
	}
	l.environment(src)
	l.flags(src)
	c := l.config()
	l.relations(c)
	if err := l.problems.Err(); err != nil {
		return AgentConfig{}, err
	}
	return c, nil
}

func (l *layers) file(src AgentSources) error {
	if src.File == "" {
		return nil
	}
	data, err := readFile(src.File)
	if errors.Is(err, fs.ErrNotExist) && !src.FileRequired {
		return nil
	}
	if err != nil {
		return err
	}
	values, lines, problems := parseAgentFile(src.File, data)
	l.problems = append(l.problems, problems...)
	for key, value := range values {
		l.set(key, value, fmt.Sprintf("%s:%d", src.File, lines[key]))
	}
	return nil
}

// parseAgentFile returns the keys that are set in a config file, and their lines.
func parseAgentFile(file string, data []byte) (values map[string]string, lines map[string]int, problems Problems) {
	values, lines = map[string]string{}, map[string]int{}
	doc, root := stricttoml.Parse(file, data)
	if root == nil {
		return values, lines, doc.Problems
	}
	for _, k := range agentKeys() {
		i, ok := root.Get(k.name)
		if !ok {
			continue
		}
		var s string
		switch {
		case k.list > 0:
			s = readJoined(root, k.name, k.list)
			if len(s) > 0 {
				i.Check(k.check(s))
			}
		case k.number:
			s = readInteger(i, k.check)
		case k.boolean:
			s = readBool(i)
		default:
			i.StrInto(&s, k.check)
		}
		values[k.name], lines[k.name] = s, i.Mark.Line
	}
	root.Done()
	return values, lines, doc.Problems
}

// readJoined reads an array of strings as one, with commas.
func readJoined(t *stricttoml.Table, key string, most int) string {
	list, _ := t.Items(key, most)
	var words []string
	for _, i := range list {
		if s, ok := i.Str(); ok {
			words = append(words, s)
		}
	}
	return strings.Join(words, ",")
}

func (l *layers) environment(src AgentSources) {
	if src.Lookup == nil {
		return
	}
	for _, k := range agentKeys() {
		name := "MVM_" + strings.ToUpper(k.name)
		if v, ok := src.Lookup(name); ok && v != "" {
			l.check(k, v, name)
		}
	}
}

func (l *layers) flags(src AgentSources) {
	for _, k := range agentKeys() {
		if v, ok := src.Flags[k.name]; ok {
			l.check(k, v, "--"+strings.ReplaceAll(k.name, "_", "-"))
		}
	}
}

func (l *layers) check(k agentKey, value, origin string) {
	if err := k.check(value); err != nil {
		l.problems = append(l.problems, &stricttoml.Problem{File: origin, Text: err.Error()})
		return
	}
	l.set(k.name, value, origin)
}

// number is the value of a key that is a whole number. A bad one is a problem already.
func (l *layers) number(key string) int {
	v, _ := strconv.Atoi(l.values[key])
	return v
}

func (l *layers) config() AgentConfig {
	c := AgentConfig{
		Socket: l.values["socket"], SocketGroup: l.values["socket_group"], DataDir: l.values["data_dir"],
		RunDir: l.values["run_dir"], Driver: l.values["driver"], UIDBase: l.number("uid_base"), KeyFile: l.values["key_file"], NodeID: l.values["node_id"],
		LogLevel: l.values["log_level"], LogFormat: l.values["log_format"], Remote: l.remote(), Reconcile: l.reconcile(), Hostd: l.hostd(),
		Observe: l.observe(), Memory: l.memory(), Ready: l.ready(), Snapshots: l.snapshots(), Registries: l.registries(), Nix: l.nix(), Trust: l.trust(), origins: l.origins,
	}
	if s := l.values["dns"]; s != "" {
		c.DNS, _ = resolvers(s) // a bad list is a problem already
	}
	return c
}

// relations checks what no key alone shows.
func (l *layers) relations(c AgentConfig) {
	if len(l.problems) > 0 {
		return
	}
	if rel, err := filepath.Rel(c.DataDir, c.KeyFile); err == nil && filepath.IsLocal(rel) {
		l.problems = append(l.problems, &stricttoml.Problem{File: c.Origin("key_file"), Key: "key_file",
			Text: fmt.Sprintf("%s is in the data directory %s, so that a copy of that would give the secrets away", c.KeyFile, c.DataDir)})
	}
}
