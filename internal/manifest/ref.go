package manifest

import (
	"path/filepath"
	"slices"
	"strings"

	"mvm"
)

// fileSchemes begin image references that name a file or folder of the agent's host.
var fileSchemes = []string{"dir", "oci-archive", "path"}

// ImageRef makes an image reference that names a file absolute: the agent has no folder
// that it could be relative to. base is the folder of the file that has the reference, or
// "" for the working folder. remote says that the agent is on another machine, where
// neither of them is.
func ImageRef(ref, base string, remote bool) (string, error) {
	if ref == "." { // as nix has it
		ref = "path:."
	}
	scheme, path, ok := strings.Cut(ref, ":")
	query := ""
	if scheme == "path" { // a flake, which is a URL
		path, query = cutQuery(path)
	}
	if !ok || !slices.Contains(fileSchemes, scheme) || path == "" || filepath.IsAbs(path) {
		return ref, nil
	}
	if remote {
		return "", mvm.Errorf(mvm.KindInvalid, "image %s: %q is a path on this machine, but the agent is on another one", ref, path).
			WithFix("give the absolute path on the agent's machine, such as %s:/srv/images/mine", scheme)
	}
	abs, err := filepath.Abs(filepath.Join(base, path))
	if err != nil {
		return "", mvm.Errorf(mvm.KindInvalid, "image %s: %w", ref, err)
	}
	abs = scheme + ":" + abs + query
	if err := mvm.ValidateFlake(abs); err != nil {
		return "", err
	}
	return abs, nil
}

// resolveImages is ImageRef for the pools of a manifest in the folder.
func resolveImages(d mvm.Deployment, base string, opts Options) (mvm.Deployment, error) {
	for i := range d.Pools {
		ref, err := ImageRef(d.Pools[i].Flake, base, opts.Remote)
		if err != nil {
			return mvm.Deployment{}, err
		}
		d.Pools[i].Flake = ref
	}
	return d, nil
}

// cutQuery returns a path and the query behind it, with its question mark.
func cutQuery(s string) (path, query string) {
	if i := strings.IndexByte(s, '?'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}
