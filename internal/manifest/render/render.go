// Package render writes manifests.
package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"mvm"
	"mvm/internal/manifest"
)

// Deployment returns the manifest of a deployment: manifest.ParseDeployment makes the
// deployment of it again. secrets are the paths of the files of its secrets; values of secrets are not
// written. What has its default is left out.
func Deployment(d mvm.Deployment, secrets map[string]string) ([]byte, error) {
	w := &writer{}
	w.tenant(d.Tenant)
	for _, p := range d.Pools {
		w.pool(p)
	}
	if d.Secrets != nil {
		w.head("[secrets]")
		for _, name := range slices.Sorted(maps.Keys(d.Secrets)) {
			w.line(name, object{{"file", secrets[name]}})
		}
	}
	if w.err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "write manifest: %w", w.err)
	}
	return w.b.Bytes(), nil
}

// object is a table with the order of its keys.
type object []field

type field struct {
	key string
	val any // an object, a list, a string, a json.Number or a bool
}

// writer writes TOML.
type writer struct {
	b   bytes.Buffer
	err error
}

func (w *writer) head(text string) {
	if w.b.Len() > 0 {
		w.b.WriteByte('\n')
	}
	w.b.WriteString(text + "\n")
}

func (w *writer) line(key string, v any) {
	fmt.Fprintf(&w.b, "%s = %s\n", tomlKey(key), inline(v))
}

// number writes an integer that is not the default.
func (w *writer) number(key string, n, usual int) {
	if n != usual {
		w.line(key, json.Number(strconv.Itoa(n)))
	}
}

func (w *writer) text(key, s, usual string) {
	if s != usual {
		w.line(key, s)
	}
}

func (w *writer) yes(key string, b bool) {
	if b {
		w.line(key, true)
	}
}

func (w *writer) tenant(t mvm.TenantSpec) {
	w.head("[tenant]")
	w.line("id", t.ID)
	if t.NetID != nil {
		w.number("net_id", *t.NetID, -1)
	}
	if t.Subnet.IsValid() {
		w.line("subnet", t.Subnet.String())
	}
	w.yes("pinned", t.Pinned)
	if len(t.HostServices) > 0 {
		w.line("host_services", w.ordered(t.HostServices))
	}
	if t.Quota != nil {
		w.head("[tenant.quota]")
		w.lines(w.ordered(t.Quota))
	}
	if t.Ceilings != nil {
		w.head("[tenant.ceilings]")
		w.lines(w.ordered(t.Ceilings))
	}
}

func (w *writer) pool(p mvm.PoolSpec) {
	usual := manifest.DefaultPool()
	w.head("[[pools]]")
	w.line("id", p.ID)
	w.text("role", string(p.Role), string(usual.Role))
	w.text("profile", p.Profile, usual.Profile)
	w.line("flake", p.Flake)
	w.changed(p.Resources, usual.Resources)
	w.number("desired_running", p.Desired.Running, 0)
	w.number("desired_warm", p.Desired.Warm, 0)
	w.number("desired_sleeping", p.Desired.Sleeping, 0)
	w.changed(p.Policy, usual.Policy)
	w.yes("pinned", p.Pinned)
	w.yes("critical", p.Critical)
	w.text("wake_catch_up", string(p.WakeCatchUp), "")
	w.yes("peers", p.Peers)
	if len(p.Egress) > 0 {
		w.line("egress", w.ordered(p.Egress))
	}
	if len(p.Publish) > 0 {
		list := make([]any, len(p.Publish))
		for n, pub := range p.Publish {
			list[n] = pub.String()
		}
		w.line("publish", list)
	}
	if len(p.Env) > 0 {
		w.head("[pools.env]")
		w.lines(w.ordered(p.Env))
	}
	if p.Limits != (mvm.Limits{}) {
		w.head("[pools.limits]")
		w.lines(w.ordered(p.Limits))
	}
	if p.Routes != nil {
		w.tables("routes", w.ordered(p.Routes.Routes))
	}
	w.tables("channels", w.ordered(p.Channels))
	w.tables("secret_scopes", w.ordered(p.SecretScopes))
	w.tables("integrations", w.ordered(p.Integrations))
}

// changed writes the fields of v that differ from those of usual.
func (w *writer) changed(v, usual any) {
	before, _ := w.ordered(usual).(object)
	fields, _ := w.ordered(v).(object)
	for _, f := range fields {
		if !slices.ContainsFunc(before, func(b field) bool { return b.key == f.key && b.val == f.val }) {
			w.line(f.key, f.val)
		}
	}
}

func (w *writer) lines(v any) {
	fields, _ := v.(object)
	for _, f := range fields {
		w.line(f.key, f.val)
	}
}

// tables writes a list of a pool as tables.
func (w *writer) tables(name string, v any) {
	list, _ := v.([]any)
	for _, e := range list {
		w.head("[[pools." + name + "]]")
		w.lines(e)
	}
}

// ordered is v as its JSON has it: the nouns have the same names there as in manifests.
func (w *writer) ordered(v any) any {
	b, err := json.Marshal(v)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		var out any
		if out, err = decodeOrdered(dec); err == nil {
			return out
		}
	}
	w.err = err
	return nil
}

func decodeOrdered(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	open, nested := tok.(json.Delim)
	if err != nil || !nested {
		return tok, err
	}
	list, fields := []any{}, object{}
	for dec.More() {
		var key any
		if open == '{' {
			if key, err = dec.Token(); err != nil {
				return nil, err
			}
		}
		v, err := decodeOrdered(dec)
		if err != nil {
			return nil, err
		}
		if name, ok := key.(string); ok {
			fields = append(fields, field{name, v})
		} else {
			list = append(list, v)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if open == '{' {
		return fields, nil
	}
	return list, nil
}

// inline is a value of TOML. What is nil has none, and is in no object.
func inline(v any) string {
	switch v := v.(type) {
	case object:
		var parts []string
		for _, f := range v {
			if f.val != nil {
				parts = append(parts, tomlKey(f.key)+" = "+inline(f.val))
			}
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	case []any:
		parts := make([]string, len(v))
		for n, e := range v {
			parts[n] = inline(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return tomlString(v)
	}
	return fmt.Sprint(v)
}

// bareKey is a key that needs no quotes.
var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func tomlKey(key string) string {
	if bareKey.MatchString(key) {
		return key
	}
	return tomlString(key)
}

func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}
