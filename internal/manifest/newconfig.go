package manifest

import (
	"slices"

	"mvm"
)

// NewConfig is the config file of `mvm new`. The zero value changes nothing of a template.
type NewConfig struct {
	Flake        string // image reference; empty: the template's
	HostServices []int
	Pools        map[string]PoolOverride // by pool of the template
	Secrets      map[string][]byte       // nil: the file names none
	Channels     []mvm.Channel           // of the gateways
}

// PoolOverride changes a pool of a template. What is nil stays.
type PoolOverride struct {
	VCPUs, MemMiB, DataDiskMiB *int
	Instances, Warm            *int              // desired running and warm
	Env                        map[string]string // added to the template's
	Publish                    []mvm.Publish     // instead of the template's
	Auth                       *mvm.Auth         // of the routes by key
}

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
		c.Flake, err = ImageRef(c.Flake, folderOf(path), opts.Remote)
	}
	return c, append([]string{path}, s.read...), err
}

// ParseNewConfig parses the config file of `mvm new`. file is its name in errors.
func (t Template) ParseNewConfig(file string, data []byte, read ReadSecret) (NewConfig, error) {
	if len(data) > MaxFileBytes {
		return NewConfig{}, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", file, MaxFileBytes)
	}
	var c NewConfig
	doc, root := parse(file, data)
	if root != nil {
		c.Secrets = root.secrets(read)
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

func (t *table) overrides(template Template, c *NewConfig) {
	if t == nil {
		return
	}
	t.str("flake", &c.Flake, mvm.ValidateFlake)
	c.HostServices = t.ports("host_services")
	for _, p := range template.pools() {
		if sub := t.sub(p.ID); sub != nil {
			if c.Pools == nil {
				c.Pools = map[string]PoolOverride{}
			}
			c.Pools[p.ID] = sub.override(p)
		}
	}
	t.done()
}

func (t *table) override(p mvm.PoolSpec) PoolOverride {
	var o PoolOverride
	t.optional("vcpus", &o.VCPUs, 1, mvm.MaxVCPUs)
	t.optional("mem_mib", &o.MemMiB, mvm.MinMemMiB, mvm.MaxMemMiB)
	t.optional("data_disk_mib", &o.DataDiskMiB, 0, mvm.MaxDiskMiB)
	t.optional("instances", &o.Instances, 0, mvm.MaxDesired)
	t.optional("warm", &o.Warm, 0, mvm.MaxDesired)
	o.Env = t.env()
	o.Publish = t.publish()
	if o.Publish != nil && p.Role != mvm.RoleGateway {
		t.item("publish", nil).problem("is for pools with role gateway, and this has role %s", p.Role)
	}
	if i, ok := t.get("auth"); ok {
		if o.Auth = i.auth(); p.Role != mvm.RoleGateway {
			i.problem("is for pools with role gateway, and this has role %s", p.Role)
		}
	}
	t.done()
	return o
}

// optional is integer for a value that may be left out.
func (t *table) optional(key string, dst **int, low, high int) {
	var n int
	if t.integer(key, &n, low, high) {
		*dst = &n
	}
}

// apply changes a pool of a template.
func (o PoolOverride) apply(p *mvm.PoolSpec) {
	for _, f := range []struct {
		from *int
		to   *int
	}{
		{o.VCPUs, &p.Resources.VCPUs}, {o.MemMiB, &p.Resources.MemMiB}, {o.DataDiskMiB, &p.Resources.DataDiskMiB},
		{o.Instances, &p.Desired.Running}, {o.Warm, &p.Desired.Warm},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	for k, v := range o.Env {
		if p.Env == nil {
			p.Env = map[string]string{}
		}
		p.Env[k] = v
	}
	if o.Publish != nil {
		p.Publish = slices.Clone(o.Publish)
	}
	if o.Auth != nil && p.Routes != nil {
		for n, r := range p.Routes.Routes {
			if r.To.Selector.Kind == mvm.SelectByKey {
				p.Routes.Routes[n].Auth = o.Auth
			}
		}
	}
}
