package manifest

import (
	"path/filepath"

	"mvm"
	"mvm/internal/stricttoml"
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
type PoolOverride struct{ table *stricttoml.Table }

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
		ref, ok := o.table.Vals["flake"].(string)
		if !ok {
			continue
		}
		abs, err := ImageRef(ref, base, remote)
		if err != nil {
			return err
		}
		c.Pools[id].table.Vals["flake"] = abs
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
	doc, root, err := stricttoml.Open(file, data)
	if err != nil {
		return NewConfig{}, err
	}
	var c NewConfig
	if root != nil {
		c.Secrets = readSecrets(root, read)
		c.SecretFiles = readSecretPaths(root)
		c.Params = readValues(root.Sub("params"), t)
		readOverrides(root.Sub("overrides"), t, &c)
		c.Channels = readNewChannels(root, t)
		checkNewChannels(root, t, c)
		root.Done()
	}
	if err := doc.Problems.Err(); err != nil {
		return NewConfig{}, err
	}
	return c, nil
}

// readValues reads values of the template's parameters.
func readValues(t *stricttoml.Table, template Template) map[string]any {
	out := map[string]any{}
	if t == nil {
		return out
	}
	for _, p := range template.Params {
		if i, ok := t.Get(p.Name); ok && i.Check(p.valid(i.Val)) {
			out[p.Name] = i.Val
		}
	}
	t.Done()
	return out
}

func readOverrides(t *stricttoml.Table, template Template, c *NewConfig) {
	if t == nil {
		return
	}
	if i, ok := t.Get("flake"); ok {
		overrideImage(t, i, template, c)
	}
	c.HostServices = readPorts(t, "host_services")
	samples, _ := sampleValues(template.Params)
	b, _ := template.body(samples) // of a required parameter a sample may not fit here, and roles and ids are no parameters
	ids := map[string]bool{}
	for _, p := range b.pools {
		ids[p.ID] = true
	}
	c.Pools = map[string]PoolOverride{}
	for _, p := range b.pools {
		sub := t.Sub(p.ID)
		if sub == nil {
			continue
		}
		c.Pools[p.ID] = PoolOverride{table: sub}
		override(sub, &p)
		if sub.Vals["routes"] != nil {
			checkTargets(sub, p, ids)
			checkAuthKeys(sub, p, c.Secrets)
		}
		if sub.Vals["secret_scopes"] != nil {
			checkScopes(sub, p, c.Secrets)
		}
	}
	t.Done()
}

// overrideImage reads the image of the whole deployment: it is the parameter image.
func overrideImage(t *stricttoml.Table, i stricttoml.Item, template Template, c *NewConfig) {
	p, ok := findParam(template.Params, imageParam)
	_, twice := c.Params[imageParam]
	switch {
	case !ok:
		i.Problem("template %s has no parameter %s: name the image of a pool, as overrides.<pool>.flake", template.Name, imageParam)
	case twice:
		i.Problem("the image is given twice: here and as params.%s", imageParam)
	case i.Check(p.valid(i.Val)):
		c.Params[imageParam] = i.Val
	}
}

// override reads the table over a pool.
func override(t *stricttoml.Table, p *mvm.PoolSpec) {
	t.Integer("instances", &p.Desired.Running, 0, mvm.MaxDesired)
	t.Integer("warm", &p.Desired.Warm, 0, mvm.MaxDesired)
	t.Integer("sleeping", &p.Desired.Sleeping, 0, mvm.MaxDesired)
	t.Str("flake", &p.Flake, mvm.ValidateFlake)
	readSettings(t, p)
	if i, ok := t.Get("auth"); ok {
		onlyGatewaysHave(t, p.Role, "auth")
		authenticate(p.Routes, readAuth(i))
	}
	t.Done()
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
	override(o.table.Anew(), p)
}
