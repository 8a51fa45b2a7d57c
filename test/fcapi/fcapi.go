// Package fcapi checks requests against Firecracker's own description of its API, for
// tests. It is stricter than the description, which allows fields that it does not name:
// as Firecracker itself, it refuses them.
//
// firecracker-v1.15.1.yaml is src/firecracker/swagger/firecracker.yaml of Firecracker 1.15.1
// (Apache License 2.0).
package fcapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"gopkg.in/yaml.v3"
)

//go:embed firecracker-v1.15.1.yaml
var description []byte

// Description is the description, read.
type Description struct{ doc *openapi3.T }

// Read reads the description.
func Read() (*Description, error) {
	var tree any
	if err := yaml.Unmarshal(description, &tree); err != nil {
		return nil, err
	}
	b, err := json.Marshal(named(tree))
	if err != nil {
		return nil, err
	}
	var old openapi2.T
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, err
	}
	doc, err := openapi2conv.ToV3(&old)
	if err != nil {
		return nil, err
	}
	for name, s := range doc.Components.Schemas {
		if name != "MmdsContentsObject" {
			refuseUnknown(s.Value)
		}
	}
	return &Description{doc}, nil
}

// named makes the keys of YAML, some of which are numbers, those of JSON.
func named(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = named(v[k])
		}
	case map[any]any:
		out := map[string]any{}
		for k, x := range v {
			out[fmt.Sprint(k)] = named(x)
		}
		return out
	case []any:
		for i := range v {
			v[i] = named(v[i])
		}
	}
	return v
}

// refuseUnknown has an object with properties refuse others.
func refuseUnknown(s *openapi3.Schema) {
	if s == nil || !s.Type.Is("object") {
		return
	}
	no := false
	s.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
}

// Check refuses a request that the description does not have, or whose body does not fit.
func (d *Description) Check(method, path string, body []byte) error {
	op, err := d.find(method, path)
	if err != nil {
		return err
	}
	if op.RequestBody == nil || op.RequestBody.Value == nil {
		if len(body) > 0 {
			return fmt.Errorf("%s %s takes no body", method, path)
		}
		return nil
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return fmt.Errorf("%s %s: body: %w", method, path, err)
	}
	media := op.RequestBody.Value.Content.Get("application/json")
	if media == nil {
		return fmt.Errorf("%s %s: the description has no JSON body", method, path)
	}
	if err := media.Schema.Value.VisitJSON(value, openapi3.VisitAsRequest(), openapi3.MultiErrors()); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// find returns the operation of a request.
func (d *Description) find(method, path string) (*openapi3.Operation, error) {
	for template, item := range d.doc.Paths.Map() {
		if !fits(template, path) {
			continue
		}
		if op := item.GetOperation(method); op != nil {
			return op, nil
		}
	}
	return nil, fmt.Errorf("%s %s is not in Firecracker's description", method, path)
}

func fits(template, path string) bool {
	t, p := strings.Split(template, "/"), strings.Split(path, "/")
	if len(t) != len(p) {
		return false
	}
	for i := range t {
		if t[i] != p[i] && (!strings.HasPrefix(t[i], "{") || p[i] == "") {
			return false
		}
	}
	return true
}

// Route is the method and the path's template of a request, for lists of what was used.
func (d *Description) Route(method, path string) string {
	var out []string
	for template := range d.doc.Paths.Map() {
		if fits(template, path) {
			out = append(out, method+" "+template)
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}
