package builtin

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"mvm/internal/guest/definition"
	"mvm/internal/image/boot"
)

// InContainer returns the files with which a container image of OpenClaw works in a guest of
// mvm as builtin:openclaw does, by path; none for an image that runs something else. run is
// what the image's configuration has it run. OpenClaw's official image is one, and so is
// every image whose command is that one: Node runs openclaw.mjs with the argument gateway.
func InContainer(run definition.Service) (map[string]boot.Added, error) {
	entry, ok := openclawEntry(run)
	if !ok {
		return nil, nil
	}
	files := map[string]boot.Added{}
	for _, name := range []string{"launch.mjs", "settings.mjs", "control.mjs", "messages.mjs", "setup.sh", "start.sh", "openclaw.sh"} {
		content, err := openclawLock{}.read(name)
		if err != nil {
			return nil, err
		}
		files["/"+openclawPlaces[name]] = boot.Added{Content: content, Executable: strings.HasSuffix(name, ".sh")}
	}
	// Nothing of the image may be run while it is built, so the guest fills the cache.
	files["/"+openclawPlaces["place.mjs"]] = boot.Added{Content: fmt.Appendf(nil,
		"export const home = %q;\nexport const cache = \"/data/openclaw/compile-cache\";\n", path.Dir(entry))}
	for name, change := range map[string]func(*definition.Service){
		"openclaw.json": func(s *definition.Service) {
			env := map[string]string{}
			maps.Copy(env, run.Env)
			maps.Copy(env, s.Env)
			s.Env, s.User = env, run.User
		},
		"openclaw-setup.json": func(s *definition.Service) {
			if user, _, _ := strings.Cut(run.User, ":"); user != "" {
				s.Command = append(s.Command, user)
			} else {
				s.Command = append(s.Command, "root")
			}
		},
	} {
		content, err := changed(name, change)
		if err != nil {
			return nil, err
		}
		files["/"+openclawPlaces[name]] = boot.Added{Content: content}
	}
	return files, nil
}

// openclawEntry is the path of the openclaw.mjs that the service runs.
func openclawEntry(run definition.Service) (string, bool) {
	n := slices.IndexFunc(run.Command, func(word string) bool { return path.Base(word) == "openclaw.mjs" })
	if n < 0 || n+1 == len(run.Command) || run.Command[n+1] != "gateway" {
		return "", false
	}
	if path.IsAbs(run.Command[n]) {
		return path.Clean(run.Command[n]), true
	}
	return path.Join("/", run.Dir, run.Command[n]), true
}

// changed is a service definition of builtin:openclaw with a change.
func changed(name string, change func(*definition.Service)) ([]byte, error) {
	text, err := openclawLock{}.read(name)
	if err != nil {
		return nil, err
	}
	var s definition.Service
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	change(&s)
	return json.Marshal(s)
}
