package manifest

import (
	"fmt"
	"net/netip"

	"mvm"
	"mvm/internal/stricttoml"
)

func readRoutes(t *stricttoml.Table) *mvm.RoutingTable {
	list, ok := t.Items("routes", mvm.MaxRoutes)
	if !ok {
		return nil
	}
	out := &mvm.RoutingTable{}
	names, rules := map[string]bool{}, map[mvm.MatchRule]string{}
	for _, i := range list {
		sub := i.Table()
		if sub == nil {
			continue
		}
		r := readRoute(sub)
		if r.Name != "" && names[r.Name] {
			sub.Item("name", nil).Problem("route %q is given twice", r.Name)
		}
		if other, twice := rules[r.Match]; twice && r.Match != (mvm.MatchRule{}) {
			sub.Item("match_rule", nil).Problem("matches the same as route %q", other)
		}
		names[r.Name], rules[r.Match] = true, r.Name
		out.Routes = append(out.Routes, r)
	}
	return out
}

func readRoute(t *stricttoml.Table) mvm.Route {
	var r mvm.Route
	t.NeedStr("name", &r.Name, validName("route"))
	if i, ok := t.Need("match_rule"); ok {
		if m := i.Table(); m != nil {
			r.Match = readMatchRule(m)
		}
	}
	if i, ok := t.Need("target"); ok {
		if to := i.Table(); to != nil {
			r.To = readTarget(to)
		}
	}
	if i, ok := t.Get("auth"); ok {
		if r.Auth = readAuth(i); r.Auth != nil && r.Auth.Mode == mvm.AuthProxy && r.To.Selector.Kind != mvm.SelectByKey && r.To.Selector.Kind != "" {
			i.Problem("mode proxy is for routes by key: to restrict other routes use source_cidr")
		}
	}
	r.TrustedProxies = readRanges(t, "trusted_proxies")
	if i, ok := t.Get("trusted_proxies"); ok {
		i.Check(mvm.ValidateProxies(r.TrustedProxies))
	}
	t.Done()
	return r
}

// readAuth reads "none" or a table; nil where it is neither or not valid.
func readAuth(i stricttoml.Item) *mvm.Auth {
	if s, ok := i.Val.(string); ok {
		if s != string(mvm.AuthNone) {
			i.Problem("%q is not \"none\" or a table such as { mode = \"jwt\", algorithm = \"EdDSA\", keys = [\"jwt_key\"] }", stricttoml.Clip(s))
			return nil
		}
		return &mvm.Auth{Mode: mvm.AuthNone}
	}
	t := i.Table()
	if t == nil {
		return nil
	}
	before := len(t.Doc.Problems)
	var a mvm.Auth
	t.NeedStr("mode", (*string)(&a.Mode), nil)
	t.Str("algorithm", &a.Algorithm, nil)
	a.Keys = readStrings(t, "keys", mvm.MaxAuthKeys)
	t.Str("claim", &a.Claim, nil)
	t.Str("issuer", &a.Issuer, nil)
	t.Str("audience", &a.Audience, nil)
	t.Integer("leeway_seconds", &a.LeewaySeconds, 1, mvm.MaxLeewaySeconds)
	t.Str("token", &a.Token, nil)
	a.Trusted = readRanges(t, "trusted")
	t.Done()
	if len(t.Doc.Problems) > before || !i.Check(a.Validate()) {
		return nil
	}
	return &a
}

// readRanges reads an optional list of ranges of addresses.
func readRanges(t *stricttoml.Table, key string) (out []netip.Prefix) {
	list, _ := t.Items(key, mvm.MaxAuthSources)
	for _, e := range list {
		var s string
		e.StrInto(&s, nil)
		if p, err := netip.ParsePrefix(s); s != "" && err != nil {
			e.Problem("%q is not a range of addresses such as 10.0.0.0/8", stricttoml.Clip(s))
		} else if s != "" {
			out = append(out, p)
		}
	}
	return out
}

// readStrings reads an optional list of strings.
func readStrings(t *stricttoml.Table, key string, limit int) (out []string) {
	list, _ := t.Items(key, limit)
	for _, i := range list {
		if s, ok := i.Str(); ok {
			out = append(out, s)
		}
	}
	return out
}

func readMatchRule(t *stricttoml.Table) mvm.MatchRule {
	var m mvm.MatchRule
	t.Integer("port", &m.Port, 1, maxPort)
	t.Str("path_prefix", &m.PathPrefix, validPrefix)
	t.Str("source_cidr", &m.SourceCIDR, func(s string) error {
		if _, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("%q is not a range of addresses such as 149.154.160.0/20", stricttoml.Clip(s))
		}
		return nil
	})
	if len(t.Vals) == 0 {
		t.Here().Problem("has no criterion: give port, path_prefix or source_cidr")
	}
	t.Done()
	return m
}

func validPrefix(s string) error {
	if s == "" || s[0] != '/' || len(s) > 1024 {
		return fmt.Errorf("must start with / and have at most 1024 bytes")
	}
	return nil
}

func readTarget(t *stricttoml.Table) mvm.Target {
	var to mvm.Target
	t.NeedStr("pool_id", &to.PoolID, validName("pool"))
	if i, ok := t.Need("instance_selector"); ok {
		s, err := mvm.SelectorFrom(i.Val)
		if i.Check(err) {
			to.Selector = s
			i.Check(s.Validate())
		}
	}
	if i, ok := t.Need("target_port"); ok {
		i.IntInto(&to.TargetPort, 1, maxPort)
	}
	t.Done()
	return to
}

// checkPools finds what only the pools together show. It knows where each stands.
func checkPools(tables []*stricttoml.Table, d mvm.Deployment) {
	ids := map[string]bool{}
	for n, p := range d.Pools {
		if p.ID != "" && ids[p.ID] {
			tables[n].Item("id", nil).Problem("pool %q is given twice", p.ID)
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
		tables[q.MaxPools].Here().Problem("is pool %d, and the tenant's quota max_pools is %d", q.MaxPools+1, q.MaxPools)
	}
}

func checkTargets(t *stricttoml.Table, p mvm.PoolSpec, ids map[string]bool) {
	if p.Routes == nil {
		return
	}
	for n, r := range p.Routes.Routes {
		if r.To.PoolID == "" || ids[r.To.PoolID] {
			continue
		}
		at := t.Element("routes", n).Key("target").Key("pool_id")
		at.Problem("there is no pool %q in this file", r.To.PoolID)
	}
}

// checkScopes finds keys that the file's own secrets do not have. Without the table of
// secrets the tenant's are left alone, and may have them.
func checkScopes(t *stricttoml.Table, p mvm.PoolSpec, secrets map[string][]byte) {
	if secrets == nil {
		return
	}
	for n, scope := range p.SecretScopes {
		for _, key := range scope.Keys {
			if _, ok := secrets[key]; !ok {
				t.Element("secret_scopes", n).Key("keys").Problem("%q is not one of the secrets in this file", key)
			}
		}
	}
}

// checkAuthKeys is checkScopes for the secrets that verify tokens.
func checkAuthKeys(t *stricttoml.Table, p mvm.PoolSpec, secrets map[string][]byte) {
	if secrets == nil || p.Routes == nil {
		return
	}
	for n, r := range p.Routes.Routes {
		if r.Auth == nil {
			continue
		}
		for _, key := range r.Auth.Keys {
			if _, ok := secrets[key]; !ok {
				t.Element("routes", n).Key("auth").Key("keys").Problem("%q is not one of the secrets in this file", key)
			}
		}
	}
}
