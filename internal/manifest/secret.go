package manifest

import (
	"mvm"
	"mvm/internal/stricttoml"
)

// maxSecrets bounds the secrets that one file names.
const maxSecrets = 256

// readSecrets reads the optional table of secrets; nil when it is not there.
func readSecrets(t *stricttoml.Table, read ReadSecret) map[string][]byte {
	s := t.Sub("secrets")
	if s == nil {
		return nil
	}
	if len(s.Vals) > maxSecrets {
		s.Here().Problem("has %d secrets, more than %d", len(s.Vals), maxSecrets)
		return nil
	}
	out, good := map[string][]byte{}, true
	for _, name := range s.Names() {
		i, _ := s.Get(name)
		v, ok := readSecret(i, name, read)
		good = good && ok
		out[name] = v
	}
	if good {
		s.Here().Check(mvm.ValidateSecrets(out))
	}
	return out
}

// readSecret reads { file = "…" }. It never says what a value is.
func readSecret(i stricttoml.Item, name string, read ReadSecret) ([]byte, bool) {
	if !i.Check(mvm.ValidateSecretName(name)) {
		return nil, false
	}
	if _, ok := i.Val.(map[string]any); !ok {
		i.Problem(`must be { file = "…" }: values of secrets do not belong into this file`)
		return nil, false
	}
	t := i.Table()
	defer t.Done()
	file, ok := t.Need("file")
	if !ok {
		return nil, false
	}
	path, ok := file.Str()
	if !ok {
		return nil, false
	}
	data, err := read(path)
	return data, file.Check(err)
}

// readSecretPaths are the files that the table of secrets names, by secret, as they are written.
func readSecretPaths(t *stricttoml.Table) map[string]string {
	s, _ := t.Vals["secrets"].(map[string]any)
	out := map[string]string{}
	for name, v := range s {
		one, _ := v.(map[string]any)
		if file, ok := one["file"].(string); ok {
			out[name] = file
		}
	}
	return out
}
