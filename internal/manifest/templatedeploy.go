package manifest

import (
	"net/netip"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/stricttoml"
)

// NewOptions are the flags of `mvm new` and what is known of the host.
type NewOptions struct {
	Flake  string       // --image or --flake, empty: the config's or the template's
	Set    []string     // --set, each NAME=VALUE
	NetID  *int         // --net-id
	Subnet netip.Prefix // --subnet, zero: choose
	// BuildsFlakes: Nix flakes can be built on this host.
	BuildsFlakes bool
	// Remote: the agent is on another machine; see Options.
	Remote bool
}

// Deployment makes the deployment of the template: a tenant of that name with the
// template's pools, changed by the config. Notes tell people which images were
// chosen, and why. The image comes from the flag, else the config, else the template;
// the template's flake gives way to a built-in image where flakes cannot be built.
// A flake is also for gateway pools that name no image, since it has a variant for each
// role; otherwise they run builtin:gateway.
func (t Template) Deployment(name string, c NewConfig, o NewOptions) (d mvm.Deployment, notes []string, err error) {
	v, notes, err := t.values(c, o)
	if err != nil {
		return mvm.Deployment{}, nil, err
	}
	b, err := t.body(v)
	if err != nil {
		return mvm.Deployment{}, nil, mvm.Errorf(mvm.KindOf(err), "use template %s: %w", t.Name, err)
	}
	d = b.deployment(name)
	d.Tenant.NetID, d.Tenant.Subnet, d.Secrets = o.NetID, o.Subnet, c.Secrets
	if c.HostServices != nil {
		d.Tenant.HostServices = c.HostServices
	}
	for n := range d.Pools {
		p := &d.Pools[n]
		c.Pools[p.ID].apply(p)
		if p.Role == mvm.RoleGateway && p.Flake == builtinGateway {
			notes = append(notes, "pool "+p.ID+" uses "+builtinGateway)
		}
	}
	addChannels(d.Pools, c.Channels)
	if d, err = resolveImages(d, t.dir(), Options{Remote: o.Remote}); err == nil {
		err = d.Validate()
	}
	if err != nil {
		return mvm.Deployment{}, nil, mvm.Errorf(mvm.KindOf(err), "use template %s: %w", t.Name, err)
	}
	return d, notes, nil
}

// dir is the folder from which the template names images.
func (t Template) dir() string {
	if t.Path == "" {
		return ""
	}
	return folderOf(t.Path)
}

// values are those of the flags, else the config's, else the defaults, with a note on the
// image.
func (t Template) values(c NewConfig, o NewOptions) (v values, notes []string, err error) {
	v = values{}
	for name, value := range c.Params {
		v[name] = value
	}
	given := "from the config file"
	set, err := t.setValues(o)
	if err != nil {
		return nil, nil, err
	}
	for name, value := range set {
		if v[name] = value; name == imageParam {
			given = "from the command line"
		}
	}
	for _, p := range t.Params {
		if _, ok := v[p.Name]; ok {
			continue
		}
		if p.Required {
			return nil, nil, mvm.Errorf(mvm.KindInvalid, "use template %s: parameter %s is not set (%s)", t.Name, p.Name, p.Help).
				WithFix("add --set %s=VALUE", p.Name)
		}
		if p.Default == nil {
			continue
		}
		if v[p.Name] = p.Default; p.Name == imageParam {
			given = p.chooseDefault(v, o.BuildsFlakes)
		}
	}
	if err := t.chooseVersion(v); err != nil {
		return nil, nil, err
	}
	if image := v.image(t.Params); image != "" {
		notes = append(notes, "image "+image+", "+given)
	}
	return v, notes, nil
}

// chooseDefault has an image that needs Nix give way where there is none, and says why the
// image was chosen.
func (p Param) chooseDefault(v values, buildsFlakes bool) (why string) {
	ref, _ := p.Default.(string)
	if !isFlake(ref) || buildsFlakes || p.WithoutNix == "" {
		return "from the template"
	}
	v[p.Name] = p.WithoutNix
	return "since Nix flakes cannot be built on this host (the template's is " + ref + ")"
}

// chooseVersion gives the image the version that is set, if one is.
func (t Template) chooseVersion(v values) error {
	for _, p := range t.Params {
		version, _ := v[p.Name].(string)
		if p.Type != ParamVersion || version == "" {
			continue
		}
		image := v.image(t.Params)
		if !strings.HasPrefix(image, "builtin:") || strings.Contains(image, "@") {
			return mvm.Errorf(mvm.KindInvalid, "use template %s: parameter %s is for built-in images, and the image is %s", t.Name, p.Name, image).
				WithFix("name the version in the image's reference, such as oci:registry.example.com/app:1.2.3")
		}
		v[imageParam] = image + "@" + version
	}
	return nil
}

// setValues reads the parameters that flags set.
func (t Template) setValues(o NewOptions) (v values, err error) {
	v = values{}
	list := o.Set
	if o.Flake != "" {
		list = append(slices.Clone(list), imageParam+"="+o.Flake)
	}
	for _, s := range list {
		name, text, ok := strings.Cut(s, "=")
		if !ok {
			return nil, mvm.Errorf(mvm.KindInvalid, "--set %q is not NAME=VALUE", stricttoml.Clip(s))
		}
		p, known := findParam(t.Params, name)
		if !known {
			return nil, t.noParam("--set "+stricttoml.Clip(s), name)
		}
		if _, twice := v[name]; twice {
			return nil, mvm.Errorf(mvm.KindInvalid, "parameter %s is set twice on the command line", name)
		}
		if v[name], err = p.parse(text); err == nil && p.Type == ParamImage {
			v[name], err = ImageRef(text, "", o.Remote)
		}
		if err != nil {
			return nil, mvm.Errorf(mvm.KindInvalid, "--set %s: %w", name, err)
		}
	}
	return v, nil
}

// noParam says that the template has no such parameter.
func (t Template) noParam(what, name string) error {
	return mvm.Errorf(mvm.KindInvalid, "%s: template %s has no parameter %q%s", what, t.Name, stricttoml.Clip(name), didYouMean(name, t.Params)).
		WithFix("`mvm templates show %s` lists its parameters", t.Name)
}

// isFlake reports whether a reference is a Nix flake, and not an image of another kind.
func isFlake(ref string) bool {
	for _, scheme := range []string{"builtin:", "oci:", "oci-archive:", "dir:"} {
		if strings.HasPrefix(ref, scheme) {
			return false
		}
	}
	return true
}
