package manifest

import (
	"embed"
	"path"

	"mvm"
	"mvm/internal/stricttoml"
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
	doc, root, err := stricttoml.Open(file, data)
	if err != nil {
		return Template{}, err
	}
	if root != nil {
		t.head(root)
		samples, open := sampleValues(t.Params)
		b := readBody(root, t.Params, samples)
		root.Done()
		t.channels = b.channels
		doc.Problems = doc.Problems.Without(open)
		if len(doc.Problems) == 0 && len(open) == 0 {
			if err := b.deployment(t.Name).Validate(); err != nil { // what no key alone shows
				doc.Problems = append(doc.Problems, &stricttoml.Problem{File: file, Text: err.Error()})
			}
		}
	}
	if err := doc.Problems.Err(); err != nil {
		return Template{}, err
	}
	return t, nil
}

// head reads what a template says of itself.
func (t *Template) head(root *stricttoml.Table) {
	var version int
	if i, ok := root.Need("version"); ok {
		i.IntInto(&version, templateVersion, templateVersion)
	}
	root.NeedStr("name", &t.Name, validName("template"))
	root.NeedStr("about", &t.About, validAbout)
	t.Params = readParams(root)
	for _, p := range t.Params {
		if image, ok := findParam(t.Params, imageParam); p.Type == ParamVersion && (!ok || image.Type != ParamImage) {
			root.Sub("params").Item(p.Name, nil).Problem("is the version of the image, and there is no parameter %s", imageParam)
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

// readBody puts the values into the template and reads what it makes then.
func readBody(t *stricttoml.Table, params []Param, v values) (b body) {
	f := filler{doc: t.Doc, params: params, values: v}
	for _, key := range []string{"host_services", "quota", "pools", "channels"} {
		f.key(t, key)
	}
	b.quota = mvm.DefaultQuota()
	if q := readQuota(t.Sub("quota")); q != nil {
		b.quota = *q
	}
	b.hostServices = readPorts(t, "host_services")
	tables := t.Tables("pools", maxPools)
	for _, p := range tables {
		setGatewayImage(p, v.image(params))
		b.pools = append(b.pools, readPool(p))
	}
	if len(tables) == 0 {
		t.Here().Problem("pools is missing")
	}
	checkPools(tables, mvm.Deployment{Tenant: mvm.TenantSpec{Quota: &b.quota}, Pools: b.pools})
	b.channels = readChannelDefaults(t, b.pools)
	return b
}

// setGatewayImage sets what a gateway pool runs that names no image. A flake has a variant for
// each role; other images are for the workers alone.
func setGatewayImage(t *stricttoml.Table, image string) {
	if _, ok := t.Vals["flake"]; ok || t.Vals["role"] != string(mvm.RoleGateway) {
		return
	}
	t.Vals["flake"] = builtinGateway
	if image != "" && isFlake(image) {
		t.Vals["flake"] = image
	}
}

// body reads the template with the values.
func (t Template) body(v values) (body, error) {
	doc, root := stricttoml.Parse(t.file, t.data)
	var b body
	if root != nil {
		(&Template{}).head(root)
		b = readBody(root, t.Params, v)
		root.Done()
	}
	return b, doc.Problems.Err()
}

// Source is the text of the template.
func (t Template) Source() []byte { return t.data }
