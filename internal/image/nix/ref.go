package nix

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"mvm"
)

// The schemes of references.
const (
	GitHub = "github:"
	Git    = "git+https:"
	Path   = "path:"
)

// flakeAt is where a cage has the folder of a path: reference.
const flakeAt = "/flake"

// reference is a flake as the reference names it.
type reference struct {
	text   string // as it was given
	folder string // of path:, on the host; "" elsewhere
	query  string // with its question mark; "" without
}

// github is the part of a reference behind its scheme and before its query.
var github = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_./-]+)?$`)

// asked are what a query may ask for, by scheme. Others could have Nix go elsewhere than the
// reference says.
var asked = map[string]string{
	GitHub: " ref rev dir narHash lastModified ",
	Git:    " ref rev dir shallow submodules allRefs narHash lastModified revCount ",
	Path:   " dir narHash lastModified ",
}

func parseRef(ref string) (reference, error) {
	r := reference{text: ref}
	scheme, rest, _ := strings.Cut(ref, ":")
	scheme += ":"
	refuse := func(why, fix string) (reference, error) {
		return r, mvm.Errorf(mvm.KindInvalid, "image %s: %s", ref, why).WithFix("%s", fix)
	}
	if strings.Contains(ref, "#") {
		return refuse("it names an attribute", "leave out # and what follows: mvm builds packages.<system>.tenant-<profile>")
	}
	name, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery {
		r.query = "?" + query
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return refuse(err.Error(), "write it as a URL, such as github:owner/repo?dir=images")
	}
	for k, v := range values {
		if !strings.Contains(asked[scheme], " "+k+" ") || len(v) != 1 {
			return refuse("it can't ask for "+k, "it may ask for:"+strings.TrimRight(asked[scheme], " "))
		}
	}
	if dir := values.Get("dir"); dir != "" && !filepath.IsLocal(dir) {
		return refuse("dir="+dir+" leads out of the flake", "give a folder of the flake")
	}
	switch scheme {
	case GitHub:
		if !github.MatchString(name) || strings.Contains(name, "..") {
			return refuse("it is not github:OWNER/REPO or github:OWNER/REPO/REVISION", "write it like github:openclaw/nix-openclaw")
		}
	case Git:
		u, err := url.Parse("https:" + name)
		if err != nil || u.Hostname() == "" || u.User != nil || len(u.Path) < 2 {
			return refuse("it is not git+https://HOST/PATH", "write it like git+https://git.example.com/team/flake")
		}
	case Path:
		folder, err := url.PathUnescape(name)
		if err != nil || !filepath.IsAbs(folder) || filepath.Clean(folder) == "/" {
			return refuse("it is not path: and the absolute path of a folder", "write it like path:/srv/flake")
		}
		r.folder = filepath.Clean(folder)
	}
	return r, nil
}

// inCage is the reference as it is in a cage.
func (r reference) inCage() string {
	if r.folder == "" {
		return r.text
	}
	return Path + flakeAt + r.query
}

// pinned is the reference with what Nix found in the place of it, for people.
func (r reference) pinned(locked string) string {
	if r.folder == "" {
		return locked
	}
	return Path + r.folder + strings.TrimPrefix(locked, Path+flakeAt)
}
