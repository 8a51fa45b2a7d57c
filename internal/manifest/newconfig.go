package manifest

import (
	"path/filepath"

	"mvm"
)

// NewConfig is the config file of `mvm new`. The zero value changes nothing of a template.
type NewConfig struct {
	Params       map[string]any // values of the template's parameters
	HostServices []int
	Pools        map[string]PoolOverride // by pool of the template
	Secrets      map[string][]byte       // nil: the file names none
	SecretFiles  map[string]string       // the file of each secret, from the working folder or absolute
	Channels     []mvm.Channel           // of the gateways
}

// PoolOverride changes a pool of a template: a table of which each key that a pool has
// replaces the template's, and env adds to it. The zero value changes nothing.
type PoolOverride struct{ table *table }

// ReadNewConfig reads the config file of `mvm new` for the template, and the secret
// files that it names; see ReadDeployment for files.
func (t Template) ReadNewConfig(path string, opts Options) (c NewConfig, files []string, err error) {
	data, err := readFile(path)
	if err != nil {
		return NewConfig{}, []string{path}, err
	}
	s := &secretFiles{dir: folderOf(path), dirs: opts.SecretDirs}
	c, err = t.ParseNewConfig(path, data, s.ReadSecret)
	if err == nil {
		err = c.resolve(t, folderOf(path), opts.Remote)
	}
	return c, append([]string{path}, s.read...), err
}

// resolve makes the images that the config names in its folder absolute.
func (c *NewConfig) resolve(t Template, base string, remote bool) error {
	for name, path := range c.SecretFiles {
		c.SecretFiles[name] = secretPath(path, base)
	}
	for _, p := range t.Params {
		ref, ok := c.Params[p.Name].(string)
		if !ok || p.Type != ParamImage {
			continue
		}
		abs, err := ImageRef(ref, base, remote)
		if err != nil {
			return err
		}
		c.Params[p.Name] = abs
	}
	for id, o := range c.Pools {
		ref, ok := o.table.vals["flake"].(string)
		if !ok {
			continue
		}
		abs, err := ImageRef(ref, base, remote)
		if err != nil {
			return err
		}
		c.Pools[id].table.vals["flake"] = abs
	}
	return nil
}

// secretPath is the path of a secret file that the config in folder base names, for a
// manifest in the working folder.
func secretPath(path, base string) string {
	if filepath.IsAbs(path) {
		return path
	}
	abs, err := filepath.Abs(filepath.Join(base, path))
	if err != nil {
		return path
	}
	here, err := filepath.Abs(".")
	if err == nil {
		if rel, err := filepath.Rel(here, abs); err == nil && filepath.IsLocal(rel) {
			return "./" + rel
		}
	}
	return abs
}

// ParseNewConfig parses the config file of `mvm new`. file is its name in errors.
func (t Template) ParseNewConfig(file string, data []byte, read ReadSecret) (NewConfig, error) {
	doc, root, err := open(file, data)
	if err != nil {
		return NewConfig{}, err
	}
	var c NewConfig
	if root != nil {
		c.Secrets = root.secrets(read)
		c.SecretFiles = root.secretPaths()
		c.Params = root.sub("params").values(t)
		root.sub("overrides").overrides(t, &c)
		c.Channels = root.newChannels(t)
		root.checkNewChannels(t, c)
		root.done()
	}
	if err := doc.problems.err(); err != nil {
		return NewConfig{}, err
	}
	return c, nil
}

// values reads values of the template's parameters.
func (t *table) values(template Template) map[string]any {
	out := map[string]any{}
	if t == nil {
		return out
	}
	for _, p := range template.Params {
		if i, ok := t.get(p.Name); ok && i.check(p.valid(i.val)) {
			out[p.Name] = i.val
		}
	}
	t.done()
	return out
}

func (t *table) overrides(template Template, c *NewConfig) {
	if t == nil {
		return
	}
	if i, ok := t.get("flake"); ok {
		t.overrideImage(i, template, c)
	}
	c.HostServices = t.ports("host_services")
	samples, _ := sampleValues(template.Params)
	b, _ := template.body(samples) // of a required parameter a sample may not fit here, and roles and ids are no parameters
	ids := map[string]bool{}
	for _, p := range b.pools {
		ids[p.ID] = true
	}
	c.Pools = map[string]PoolOverride{}
	for _, p := range b.pools {
		sub := t.sub(p.ID)
		if sub == nil {
			continue
		}
		c.Pools[p.ID] = PoolOverride{table: sub}
		sub.override(&p)
		if sub.vals["routes"] != nil {
			checkTargets(sub, p, ids)
			checkAuthKeys(sub, p, c.Secrets)
		}
		if sub.vals["secret_scopes"] != nil {
			checkScopes(sub, p, c.Secrets)
		}
	}
	t.done()
}

// overrideImage reads the image of the whole deployment: it is the parameter image.
func (t *table) overrideImage(i item, template Template, c *NewConfig) {
	p, ok := findParam(template.Params, imageParam)
	_, twice := c.Params[imageParam]
	switch {
	case !ok:
		i.problem("template %s has no parameter %s: name the image of a pool, as overrides.<pool>.flake", template.Name, imageParam)
	case twice:
		i.problem("the image is given twice: here and as params.%s", imageParam)
	case i.check(p.valid(i.val)):
		c.Params[imageParam] = i.val
	}
}

// override reads the table over a pool.
func (t *table) override(p *mvm.PoolSpec) {
	t.integer("instances", &p.Desired.Running, 0, mvm.MaxDesired)
	t.integer("warm", &p.Desired.Warm, 0, mvm.MaxDesired)
	t.integer("sleeping", &p.Desired.Sleeping, 0, mvm.MaxDesired)
	t.str("flake", &p.Flake, mvm.ValidateFlake)
	t.settings(p)
	if i, ok := t.get("auth"); ok {
		t.forGateways(p.Role, "auth")
		authenticate(p.Routes, i.auth())
	}
	t.done()
}

// authenticate gives the routes by key the authentication, if there are any.
func authenticate(table *mvm.RoutingTable, auth *mvm.Auth) {
	if table == nil || auth == nil {
		return
	}
	for n, r := range table.Routes {
		if r.To.Selector.Kind == mvm.SelectByKey {
			table.Routes[n].Auth = auth
		}
	}
}

// apply changes a pool of a template, which nobody else has.
func (o PoolOverride) apply(p *mvm.PoolSpec) {
	if o.table == nil {
		return
	}
	fresh := *o.table
	fresh.doc, fresh.asked = &document{}, nil
	fresh.override(p)
}
