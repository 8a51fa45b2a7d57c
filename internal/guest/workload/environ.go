package workload

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ returns the environment of the service, from weak to strong: the system's,
// the definition's, the pool's, the secrets that are there.
func (u *unit) environ(user User) ([]string, error) {
	env := UserEnv(user)
	maps.Copy(env, u.def.Env)
	u.sup.mu.Lock()
	maps.Copy(env, u.sup.env)
	u.sup.mu.Unlock()
	for name, secret := range u.def.SecretEnv {
		value, err := readSecret(u.sup.cfg.Secrets, secret)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("secret_env %s: %w", name, err)
		}
		env[name] = value
	}
	return JoinEnv(env), nil
}

// UserEnv is the environment that every process of a user starts with.
func UserEnv(user User) map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOME": user.Home, "USER": user.Name, "LOGNAME": user.Name, "LANG": "C.UTF-8"}
	if user.Shell != "" {
		env["SHELL"] = user.Shell
	}
	return env
}

func JoinEnv(env map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// readSecret returns a secret for an environment variable: without the newline at
// its end, and not if it can't be one.
func readSecret(dir, name string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes))
	if err != nil {
		return "", err
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	if bytes.IndexByte(b, 0) >= 0 {
		return "", fmt.Errorf("secret %s has a zero byte", name)
	}
	return string(b), nil
}

// maxSecretBytes bounds one secret; all of them fit in a frame anyway.
const maxSecretBytes = 256 << 10
