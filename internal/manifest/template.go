package manifest

import (
	"embed"
	"path"

	"mvm"
)

// Template makes a deployment of a name. Its methods may be called from many
// goroutines.
type Template struct {
	Name string
	// About says what it makes, for people, in a line.
	About string
	// Path is its file; empty: it is built in.
	Path   string
	Params []Param

	file     string // its name in errors
	data     []byte
	channels map[mvm.ChannelKind]mvm.Channel
}

//go:embed templates
var builtinTemplates embed.FS

// builtinNames are the built-in templates, in the order in which people are told of them.
var builtinNames = []string{"openclaw", "minimal", "web"}

// Templates returns the built-in templates.
func Templates() []Template {
	var all []Template
	for _, name := range builtinNames {
		data, err := builtinTemplates.ReadFile(path.Join("templates", name+templateExt))
		if err != nil {
			continue // a test wants all of them
		}
		if t, err := ParseTemplate("built-in template "+name, data); err == nil {
			all = append(all, t)
		}
	}
	return all
}

// templateVersion is the version of the format.
const templateVersion = 1

// maxAbout bounds texts of a template that are for people.
const maxAbout = 200

// ParseTemplate parses a template. file is its name in errors. Values that only a
// deployment has, those of required parameters, are checked when it is made.
func ParseTemplate(file string, data []byte) (Template, error) {
	t := Template{file: file, data: data}
	doc, root, err := open(file, data)
	if err != nil {
		return Template{}, err
	}
	if root != nil {
		t.head(root)
		samples, open := sampleValues(t.Params)
		b := root.body(t.Params, samples)
		root.done()
		t.channels = b.channels
		doc.problems = doc.problems.without(open)
		if len(doc.problems) == 0 && len(open) == 0 {
			if err := b.deployment(t.Name).Validate(); err != nil { // what no key alone shows
				doc.problems = append(doc.problems, &Problem{File: file, Text: err.Error()})
			}
		}
	}
	if err := doc.problems.err(); err != nil {
		return Template{}, err
	}
	return t, nil
}

// head reads what a template says of itself.
func (t *Template) head(root *table) {
	var version int
	if i, ok := root.need("version"); ok {
		i.intInto(&version, templateVersion, templateVersion)
	}
	root.needStr("name", &t.Name, validName("template"))
	root.needStr("about", &t.About, validAbout)
	t.Params = root.params()
	for _, p := range t.Params {
		if image, ok := findParam(t.Params, imageParam); p.Type == ParamVersion && (!ok || image.Type != ParamImage) {
			root.sub("params").item(p.Name, nil).problem("is the version of the image, and there is no parameter %s", imageParam)
		}
	}
}

// body is what a template makes, for the values of its parameters.
type body struct {
	quota        mvm.Quota
	hostServices []int
	pools        []mvm.PoolSpec
	channels     map[mvm.ChannelKind]mvm.Channel // what one of the kind has unless it says otherwise
}

// deployment is what it makes, for a tenant of that name.
func (b body) deployment(name string) mvm.Deployment {
	return mvm.Deployment{Tenant: mvm.TenantSpec{ID: name, Quota: &b.quota, HostServices: b.hostServices}, Pools: b.pools}
}

// builtinGateway is the image of gateways, unless a flake brings its own.
const builtinGateway = "builtin:gateway"

// body puts the values into the template and reads what it makes then.
func (t *table) body(params []Param, v values) (b body) {
	f := filler{doc: t.doc, params: params, values: v}
	for _, key := range []string{"host_services", "quota", "pools", "channels"} {
		f.key(t, key)
	}
	b.quota = mvm.DefaultQuota()
	if q := t.sub("quota").quota(); q != nil {
		b.quota = *q
	}
	b.hostServices = t.ports("host_services")
	tables := t.tables("pools", maxPools)
	for _, p := range tables {
		p.gatewayImage(v.image(params))
		b.pools = append(b.pools, p.pool())
	}
	if len(tables) == 0 {
		t.here().problem("pools is missing")
	}
	checkPools(tables, mvm.Deployment{Tenant: mvm.TenantSpec{Quota: &b.quota}, Pools: b.pools})
	b.channels = t.channelDefaults(b.pools)
	return b
}

// gatewayImage is what a gateway pool runs that names no image. A flake has a variant for
// each role; other images are for the workers alone.
func (t *table) gatewayImage(image string) {
	if _, ok := t.vals["flake"]; ok || t.vals["role"] != string(mvm.RoleGateway) {
		return
	}
	t.vals["flake"] = builtinGateway
	if image != "" && isFlake(image) {
		t.vals["flake"] = image
	}
}

// body reads the template with the values.
func (t Template) body(v values) (body, error) {
	doc, root := parse(t.file, t.data)
	var b body
	if root != nil {
		(&Template{}).head(root)
		b = root.body(t.Params, v)
		root.done()
	}
	return b, doc.problems.err()
}

// Source is the text of the template.
func (t Template) Source() []byte { return t.data }
