package manifest

import (
	"fmt"
	"net/netip"

	"mvm"
)

func (t *table) routes() *mvm.RoutingTable {
	list, ok := t.items("routes", mvm.MaxRoutes)
	if !ok {
		return nil
	}
	out := &mvm.RoutingTable{}
	names, rules := map[string]bool{}, map[mvm.MatchRule]string{}
	for _, i := range list {
		sub := i.table()
		if sub == nil {
			continue
		}
		r := sub.route()
		if r.Name != "" && names[r.Name] {
			sub.item("name", nil).problem("route %q is given twice", r.Name)
		}
		if other, twice := rules[r.Match]; twice && r.Match != (mvm.MatchRule{}) {
			sub.item("match_rule", nil).problem("matches the same as route %q", other)
		}
		names[r.Name], rules[r.Match] = true, r.Name
		out.Routes = append(out.Routes, r)
	}
	return out
}

func (t *table) route() mvm.Route {
	var r mvm.Route
	t.needStr("name", &r.Name, validName("route"))
	if i, ok := t.need("match_rule"); ok {
		if m := i.table(); m != nil {
			r.Match = m.matchRule()
		}
	}
	if i, ok := t.need("target"); ok {
		if to := i.table(); to != nil {
			r.To = to.target()
		}
	}
	if i, ok := t.get("auth"); ok {
		if r.Auth = i.auth(); r.Auth != nil && r.Auth.Mode == mvm.AuthProxy && r.To.Selector.Kind != mvm.SelectByKey && r.To.Selector.Kind != "" {
			i.problem("mode proxy is for routes by key: to restrict other routes use source_cidr")
		}
	}
	r.TrustedProxies = t.ranges("trusted_proxies")
	if i, ok := t.get("trusted_proxies"); ok {
		i.check(mvm.ValidateProxies(r.TrustedProxies))
	}
	t.done()
	return r
}

// auth reads "none" or a table; nil where it is neither or not valid.
func (i item) auth() *mvm.Auth {
	if s, ok := i.val.(string); ok {
		if s != string(mvm.AuthNone) {
			i.problem("%q is not \"none\" or a table such as { mode = \"jwt\", algorithm = \"EdDSA\", keys = [\"jwt_key\"] }", clip(s))
			return nil
		}
		return &mvm.Auth{Mode: mvm.AuthNone}
	}
	t := i.table()
	if t == nil {
		return nil
	}
	before := len(t.doc.problems)
	var a mvm.Auth
	t.needStr("mode", (*string)(&a.Mode), nil)
	t.str("algorithm", &a.Algorithm, nil)
	a.Keys = t.strings("keys", mvm.MaxAuthKeys)
	t.str("claim", &a.Claim, nil)
	t.str("issuer", &a.Issuer, nil)
	t.str("audience", &a.Audience, nil)
	t.integer("leeway_seconds", &a.LeewaySeconds, 1, mvm.MaxLeewaySeconds)
	t.str("token", &a.Token, nil)
	a.Trusted = t.ranges("trusted")
	t.done()
	if len(t.doc.problems) > before || !i.check(a.Validate()) {
		return nil
	}
	return &a
}

// ranges reads an optional list of ranges of addresses.
func (t *table) ranges(key string) (out []netip.Prefix) {
	list, _ := t.items(key, mvm.MaxAuthSources)
	for _, e := range list {
		var s string
		e.strInto(&s, nil)
		if p, err := netip.ParsePrefix(s); s != "" && err != nil {
			e.problem("%q is not a range of addresses such as 10.0.0.0/8", clip(s))
		} else if s != "" {
			out = append(out, p)
		}
	}
	return out
}

// strings reads an optional list of strings.
func (t *table) strings(key string, limit int) (out []string) {
	list, _ := t.items(key, limit)
	for _, i := range list {
		if s, ok := i.str(); ok {
			out = append(out, s)
		}
	}
	return out
}

func (t *table) matchRule() mvm.MatchRule {
	var m mvm.MatchRule
	t.integer("port", &m.Port, 1, maxPort)
	t.str("path_prefix", &m.PathPrefix, validPrefix)
	t.str("source_cidr", &m.SourceCIDR, func(s string) error {
		if _, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("%q is not a range of addresses such as 149.154.160.0/20", clip(s))
		}
		return nil
	})
	if len(t.vals) == 0 {
		t.here().problem("has no criterion: give port, path_prefix or source_cidr")
	}
	t.done()
	return m
}

func validPrefix(s string) error {
	if s == "" || s[0] != '/' || len(s) > 1024 {
		return fmt.Errorf("must start with / and have at most 1024 bytes")
	}
	return nil
}

func (t *table) target() mvm.Target {
	var to mvm.Target
	t.needStr("pool_id", &to.PoolID, validName("pool"))
	if i, ok := t.need("instance_selector"); ok {
		s, err := mvm.SelectorFrom(i.val)
		if i.check(err) {
			to.Selector = s
			i.check(s.Validate())
		}
	}
	if i, ok := t.need("target_port"); ok {
		i.intInto(&to.TargetPort, 1, maxPort)
	}
	t.done()
	return to
}

// checkPools finds what only the pools together show. It knows where each stands.
func checkPools(tables []*table, d mvm.Deployment) {
	ids := map[string]bool{}
	for n, p := range d.Pools {
		if p.ID != "" && ids[p.ID] {
			tables[n].item("id", nil).problem("pool %q is given twice", p.ID)
		}
		ids[p.ID] = true
	}
	for n, p := range d.Pools {
		checkTargets(tables[n], p, ids)
		checkScopes(tables[n], p, d.Secrets)
		checkAuthKeys(tables[n], p, d.Secrets)
		checkChannels(tables[n], p, ids, d.Secrets)
	}
	if q := d.Tenant.Quota; q != nil && len(d.Pools) > q.MaxPools {
		tables[q.MaxPools].here().problem("is pool %d, and the tenant's quota max_pools is %d", q.MaxPools+1, q.MaxPools)
	}
}

func checkTargets(t *table, p mvm.PoolSpec, ids map[string]bool) {
	if p.Routes == nil {
		return
	}
	for n, r := range p.Routes.Routes {
		if r.To.PoolID == "" || ids[r.To.PoolID] {
			continue
		}
		at := t.at("routes", n).at("target").at("pool_id")
		at.problem("there is no pool %q in this file", r.To.PoolID)
	}
}

// checkScopes finds keys that the file's own secrets do not have. Without the table of
// secrets the tenant's are left alone, and may have them.
func checkScopes(t *table, p mvm.PoolSpec, secrets map[string][]byte) {
	if secrets == nil {
		return
	}
	for n, scope := range p.SecretScopes {
		for _, key := range scope.Keys {
			if _, ok := secrets[key]; !ok {
				t.at("secret_scopes", n).at("keys").problem("%q is not one of the secrets in this file", key)
			}
		}
	}
}

// checkAuthKeys is checkScopes for the secrets that verify tokens.
func checkAuthKeys(t *table, p mvm.PoolSpec, secrets map[string][]byte) {
	if secrets == nil || p.Routes == nil {
		return
	}
	for n, r := range p.Routes.Routes {
		if r.Auth == nil {
			continue
		}
		for _, key := range r.Auth.Keys {
			if _, ok := secrets[key]; !ok {
				t.at("routes", n).at("auth").at("keys").problem("%q is not one of the secrets in this file", key)
			}
		}
	}
}

// at finds an element of an array of the table, for a problem with it.
func (t *table) at(key string, n int) item {
	i := t.item(key, t.vals[key])
	i.path = fmt.Sprintf("%s[%d]", i.path, n)
	if n < len(i.mark.elems) {
		i.mark = i.mark.elems[n]
	}
	return i
}

// at finds a key below the item, for a problem with it.
func (i item) at(key string) item {
	i.path += "." + key
	if i.mark.keys[key] != nil {
		i.mark = i.mark.keys[key]
	}
	return i
}
