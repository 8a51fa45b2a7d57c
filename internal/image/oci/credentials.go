package oci

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"mvm"
)

// maxCredentials bounds docker's config.json.
const maxCredentials = 1 << 20

// credentials looks the host up in docker's config.json at the path; "" or one that is not
// there: nobody is logged in. Programs that keep credentials are not run.
func credentials(path, host string) (authn.Authenticator, error) {
	if path == "" {
		return authn.Anonymous, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read the registries' credentials: %w", err)
	}
	defer f.Close()
	b, err := readAll(io.Reader(f), maxCredentials)
	if err != nil {
		return nil, err
	}
	var c struct {
		Auths       map[string]authn.AuthConfig `json:"auths"`
		CredsStore  string                      `json:"credsStore"`
		CredHelpers map[string]string           `json:"credHelpers"`
	}
	if err := decode(b, &c); err != nil { // without the text, which has secrets
		return nil, mvm.Errorf(mvm.KindInvalid, "read the registries' credentials: %s is not docker's config.json", path)
	}
	for key, a := range c.Auths {
		if hostOf(key) != host || a == (authn.AuthConfig{}) {
			continue
		}
		return authn.FromConfig(a), nil
	}
	if c.CredsStore != "" || c.CredHelpers[host] != "" {
		return nil, mvm.Errorf(mvm.KindInvalid, "log in to %s: %s leaves its credentials to a helper program, which mvm does not run", host, path).
			WithFix("write user and password into the file, under auths")
	}
	return authn.Anonymous, nil
}

// hostOf is the host of a key of auths, which may be a URL.
func hostOf(key string) string {
	_, rest, ok := strings.Cut(key, "://")
	if !ok {
		rest = key
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}
