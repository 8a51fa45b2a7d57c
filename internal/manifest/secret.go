package manifest

import (
	"mvm"
)

// maxSecrets bounds the secrets that one file names.
const maxSecrets = 256

// secrets reads the optional table of secrets; nil when it is not there.
func (t *table) secrets(read ReadSecret) map[string][]byte {
	s := t.sub("secrets")
	if s == nil {
		return nil
	}
	if len(s.vals) > maxSecrets {
		s.here().problem("has %d secrets, more than %d", len(s.vals), maxSecrets)
		return nil
	}
	out, good := map[string][]byte{}, true
	for _, name := range s.names() {
		i, _ := s.get(name)
		v, ok := i.secret(name, read)
		good = good && ok
		out[name] = v
	}
	if good {
		s.here().check(mvm.ValidateSecrets(out))
	}
	return out
}

// secret reads { file = "…" }. It never says what a value is.
func (i item) secret(name string, read ReadSecret) ([]byte, bool) {
	if !i.check(mvm.ValidateSecretName(name)) {
		return nil, false
	}
	if _, ok := i.val.(map[string]any); !ok {
		i.problem(`must be { file = "…" }: values of secrets do not belong into this file`)
		return nil, false
	}
	t := i.table()
	defer t.done()
	file, ok := t.need("file")
	if !ok {
		return nil, false
	}
	path, ok := file.str()
	if !ok {
		return nil, false
	}
	data, err := read(path)
	return data, file.check(err)
}

// secretPaths are the files that the table of secrets names, by secret, as they are written.
func (t *table) secretPaths() map[string]string {
	s, _ := t.vals["secrets"].(map[string]any)
	out := map[string]string{}
	for name, v := range s {
		one, _ := v.(map[string]any)
		if file, ok := one["file"].(string); ok {
			out[name] = file
		}
	}
	return out
}
