package nix

import (
	"slices"
	"strings"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/stricttoml"
)

// profilesName is the file of a flake that says which roles and profiles it has.
const profilesName = "mvm-profiles.toml"

// system is that of images.
const system = "x86_64-linux"

// maxProfiles bounds the file.
const maxProfiles = 64 << 10

// attributeOf is what of a flake a request builds. profiles is the flake's mvm-profiles.toml;
// nil where it has none.
func attributeOf(req image.Request, profiles []byte) (string, error) {
	role, profile := req.Role, req.Profile
	if role == "" {
		role = mvm.RoleWorker
	}
	if profile == "" {
		profile = "minimal"
	}
	if err := mvm.ValidateName("profile", profile); err != nil {
		return "", err
	}
	base := "packages." + system + ".tenant-"
	if profiles == nil {
		return base + profile, nil
	}
	p, err := readProfiles(profiles)
	if err != nil {
		return "", err
	}
	if !slices.Contains(p.profiles, profile) {
		return "", unknown("profile", profile, p.profiles)
	}
	if !slices.Contains(p.roles, string(role)) {
		return "", unknown("role", string(role), p.roles)
	}
	return base + string(role) + "-" + profile, nil
}

func unknown(what, name string, known []string) error {
	return mvm.Errorf(mvm.KindInvalid, "%s has no %s %s", profilesName, what, name).
		WithFix("the flake's are: %s", strings.Join(known, ", "))
}

// known are the roles and profiles of a flake, sorted.
type known struct{ roles, profiles []string }

func readProfiles(text []byte) (k known, err error) {
	if len(text) > maxProfiles {
		return k, mvm.Errorf(mvm.KindInvalid, "%s has more than %d bytes", profilesName, maxProfiles)
	}
	doc, root, err := stricttoml.Open(profilesName, text)
	if err != nil {
		return k, err
	}
	meta := root.Sub("meta")
	if root != nil && meta == nil {
		root.Here().Problem("meta is missing: it says the version of the format, 1")
	}
	version := 0
	if _, ok := meta.Need("version"); ok {
		meta.Integer("version", &version, 1, 1)
	}
	meta.Done()
	k.profiles = names(root.Sub("profiles"), func(t *stricttoml.Table) { module(t) })
	k.roles = names(root.Sub("roles"), func(t *stricttoml.Table) {
		module(t)
		var drive bool
		t.Boolean("requires_config_drive", &drive)
		t.Boolean("requires_secrets_drive", &drive)
	})
	root.Done()
	return k, doc.Problems.Err()
}

// module reads the name of a module, which is the flake's own matter.
func module(t *stricttoml.Table) {
	var s string
	t.NeedStr("module", &s, nil)
}

// names are those of the tables in a table.
func names(t *stricttoml.Table, read func(*stricttoml.Table)) []string {
	if t == nil {
		return nil
	}
	all := t.Names()
	for _, n := range all {
		sub := t.Sub(n)
		read(sub)
		sub.Done()
	}
	t.Done()
	slices.Sort(all)
	return all
}
