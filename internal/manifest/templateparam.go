package manifest

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/spelling"
	"mvm/internal/stricttoml"
)

// Param is a parameter of a template.
type Param struct {
	Name string    `json:"name"`
	Type ParamType `json:"type"`
	// Default is a string, an int64, a bool or a list of strings; nil: there is none.
	Default  any    `json:"default,omitempty"`
	Required bool   `json:"required,omitempty"`
	Help     string `json:"help,omitempty"`
	// WithoutNix is the default where Nix flakes cannot be built.
	WithoutNix string `json:"without_nix,omitempty"`
}

// ParamType is the type of a parameter's value.
type ParamType string

// The types.
const (
	ParamImage  ParamType = "image"
	ParamString ParamType = "string"
	ParamInt    ParamType = "int"
	ParamBool   ParamType = "bool"
	ParamPort   ParamType = "port"
	ParamList   ParamType = "list" // of strings
	// ParamVersion is the version of the built-in image that the parameter image names.
	ParamVersion ParamType = "version"
)

// imageParam is the parameter that --image sets.
const imageParam = "image"

// Bounds of a template's parameters.
const (
	maxParams    = 64
	maxParamList = 256
	maxParamText = 32 << 10
)

// paramName is what a parameter may be called. ${HOME} in a command is none.
var paramName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// versionName is what a version may be; which there are is known by who builds the image.
var versionName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,63}$`)

// values are the values of parameters; one that is not set is not in it.
type values map[string]any

// image is the value of the parameter image; "" where there is none.
func (v values) image(params []Param) string {
	if p, ok := findParam(params, imageParam); ok && p.Type == ParamImage {
		s, _ := v[imageParam].(string)
		return s
	}
	return ""
}

func findParam(params []Param, name string) (Param, bool) {
	n := slices.IndexFunc(params, func(p Param) bool { return p.Name == name })
	if n < 0 {
		return Param{}, false
	}
	return params[n], true
}

// didYouMean names the parameter that was meant, "" when none is near.
func didYouMean(name string, params []Param) string {
	names := make([]string, len(params))
	for n, p := range params {
		names[n] = p.Name
	}
	if near := spelling.Nearest(name, names); near != "" {
		return " (did you mean " + near + "?)"
	}
	return ""
}

// readParams reads the parameters, in the order of the file.
func readParams(t *stricttoml.Table) (out []Param) {
	sub := t.Sub("params")
	if sub == nil {
		return nil
	}
	names := sub.Names()
	if len(names) > maxParams {
		sub.Here().Problem("has %d parameters, more than %d", len(names), maxParams)
		return nil
	}
	slices.SortStableFunc(names, func(a, b string) int {
		m, n := sub.Item(a, nil).Mark, sub.Item(b, nil).Mark
		return cmp.Or(cmp.Compare(m.Line, n.Line), cmp.Compare(m.Column, n.Column))
	})
	for _, name := range names {
		i, _ := sub.Get(name)
		if !paramName.MatchString(name) {
			i.Problem("is not the name of a parameter: use a-z, 0-9 and _, beginning with a letter")
			continue
		}
		if one := i.Table(); one != nil {
			out = append(out, readParam(one, name))
		}
	}
	return out
}

func readParam(t *stricttoml.Table, name string) Param {
	p := Param{Name: name}
	known := []string{string(ParamImage), string(ParamString), string(ParamInt), string(ParamBool), string(ParamPort), string(ParamList), string(ParamVersion)}
	t.NeedStr("type", (*string)(&p.Type), oneOf(known...))
	t.Boolean("required", &p.Required)
	t.Str("help", &p.Help, validAbout)
	if i, ok := t.Get("default"); ok && p.Type != "" && i.Check(p.valid(i.Val)) {
		if p.Default = i.Val; p.Required {
			i.Problem("is never used: the parameter is required")
		}
	}
	if i, ok := t.Get("without_nix"); ok {
		if p.Type != ParamImage || p.Default == nil {
			i.Problem("is for parameters of type image that have a default")
		}
		i.StrInto(&p.WithoutNix, mvm.ValidateFlake)
	}
	if name == imageParam && p.Type != ParamImage && p.Type != "" {
		t.Item("type", nil).Problem("of the parameter image must be image: --image sets it")
	}
	t.Done()
	return p
}

func validAbout(s string) error {
	if s == "" || len(s) > maxAbout || strings.ContainsAny(s, "\n\x00") {
		return fmt.Errorf("must be a line of 1 to %d bytes", maxAbout)
	}
	return nil
}

// valid checks a value that a file has.
func (p Param) valid(v any) error {
	wrong := func(want string) error { return fmt.Errorf("is %s, must be %s", stricttoml.TypeName(v), want) }
	switch p.Type {
	case ParamInt, ParamPort:
		n, ok := v.(int64)
		if !ok {
			return wrong("an integer")
		}
		if p.Type == ParamPort && (n < 1 || n > maxPort) {
			return fmt.Errorf("%d is not in 1..%d", n, maxPort)
		}
	case ParamBool:
		if _, ok := v.(bool); !ok {
			return wrong("a boolean")
		}
	case ParamList:
		list, ok := v.([]any)
		if !ok {
			return wrong("an array")
		}
		if len(list) > maxParamList {
			return fmt.Errorf("has %d elements, more than %d", len(list), maxParamList)
		}
		for _, e := range list {
			if _, ok := e.(string); !ok {
				return fmt.Errorf("has %s in it, must be an array of strings", stricttoml.TypeName(e))
			}
		}
	default:
		s, ok := v.(string)
		switch {
		case !ok:
			return wrong("a string")
		case p.Type == ParamImage:
			return mvm.ValidateFlake(s)
		case p.Type == ParamVersion && !versionName.MatchString(s):
			return fmt.Errorf("%q is not a version such as 1.2.3", stricttoml.Clip(s))
		case len(s) > maxParamText:
			return fmt.Errorf("has %d bytes, more than %d", len(s), maxParamText)
		}
	}
	return nil
}

// parse reads a value that is given as text; a list has commas.
func (p Param) parse(text string) (v any, err error) {
	switch p.Type {
	case ParamInt, ParamPort:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", stricttoml.Clip(text))
		}
		v = n
	case ParamBool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not true or false", stricttoml.Clip(text))
		}
		v = b
	case ParamList:
		list := []any{}
		for word := range strings.SplitSeq(text, ",") {
			if word != "" {
				list = append(list, word)
			}
		}
		v = list
	default:
		v = text
	}
	return v, p.valid(v)
}

// sampleValues are values with which a template can be read before anybody has set any:
// the defaults, and samples of what is required, which are named in open.
func sampleValues(params []Param) (v values, open map[string]bool) {
	v, open = values{}, map[string]bool{}
	for _, p := range params {
		switch {
		case p.Default != nil:
			v[p.Name] = p.Default
		case p.Required:
			v[p.Name], open[p.Name] = p.sample(), true
		}
	}
	return v, open
}

func (p Param) sample() any {
	switch p.Type {
	case ParamImage:
		return "builtin:minimal"
	case ParamInt, ParamPort:
		return int64(1)
	case ParamBool:
		return false
	case ParamList:
		return []any{}
	}
	return "1"
}
