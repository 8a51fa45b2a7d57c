package tenants

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/egress"
)

// listFlags are the flags of what a pool has several of. Each adds or changes what it
// names, as docker and kubectl have it, and leaves the others; for an update there are
// flags that take away one, or all.
func (o *poolFlags) listFlags(cmd *cobra.Command, update bool) {
	o.list(cmd, &o.env, "env", "environment variable `NAME=VALUE` for the services; not for secrets (repeat)", setEnv)
	o.list(cmd, &o.publish, "publish", "publish a gateway pool's port GUEST on the host: `[[HOST:]PORT:]GUEST` (repeat)", addPublish)
	o.list(cmd, &o.scopes, "secret-scope", "`INTEGRATION=KEY,KEY`: give the integration only these secrets (repeat)", setScope)
	o.list(cmd, &o.egress, "egress", "let the guests reach a private `CIDR[:PORT[/PROTO]]`, or a NAME; with a name they reach nothing else (repeat)", addEgress)
	o.list(cmd, &o.limits, "limit", "limit what each instance takes from the host: `NAME=NUMBER`, or NAME=default (repeat)", setLimit)
	if !update {
		return
	}
	o.list(cmd, &o.unsetEnv, "unset-env", "remove `NAME` from the environment (repeat)", unsetEnv)
	o.list(cmd, &o.unpublish, "unpublish", "stop publishing `[[HOST:]PORT:]GUEST` (repeat)", unpublish)
	o.list(cmd, &o.noEgress, "unset-egress", "remove `CIDR[:PORT[/PROTO]]` or a NAME from the egress (repeat)", removeEgress)
	o.clear(cmd, "clear-egress", "remove all destinations of the egress before --egress adds some", func(s *mvm.PoolSpec) { s.Egress = nil })
	o.clear(cmd, "clear-env", "clear the environment before --env adds to it", func(s *mvm.PoolSpec) { s.Env = nil })
	o.clear(cmd, "clear-publish", "stop publishing all ports before --publish adds some", func(s *mvm.PoolSpec) { s.Publish = nil })
	o.clear(cmd, "clear-secret-scopes", "remove all secret scopes before --secret-scope adds some", func(s *mvm.PoolSpec) { s.SecretScopes = nil })
}

func (o *poolFlags) list(cmd *cobra.Command, v *[]string, name, usage string, each func(*mvm.PoolSpec, string) error) {
	cmd.Flags().StringArrayVar(v, name, nil, usage)
	o.apply[name] = func(s *mvm.PoolSpec) error {
		for _, text := range *v {
			if err := each(s, text); err != nil {
				return err
			}
		}
		return nil
	}
}

func (o *poolFlags) clear(cmd *cobra.Command, name, usage string, clear func(*mvm.PoolSpec)) {
	on := cmd.Flags().Bool(name, false, usage)
	o.apply[name] = func(s *mvm.PoolSpec) error {
		if *on {
			clear(s)
		}
		return nil
	}
}

// order is in which order flags are applied: what is emptied, what is taken away, the rest.
func order(name string) int {
	switch {
	case strings.HasPrefix(name, "clear-"):
		return 0
	case strings.HasPrefix(name, "un"):
		return 1
	}
	return 2
}

func setEnv(s *mvm.PoolSpec, text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return mvm.Errorf(mvm.KindInvalid, "--env %q is not NAME=VALUE", text)
	}
	s.Env = maps.Clone(s.Env) // it is shared with the spec that it was read from
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	s.Env[name] = value
	return nil
}

func unsetEnv(s *mvm.PoolSpec, name string) error {
	if _, ok := s.Env[name]; !ok {
		return mvm.Errorf(mvm.KindNotFound, "--unset-env %s: the pool's environment has no such name", name)
	}
	s.Env = maps.Clone(s.Env)
	delete(s.Env, name)
	return nil
}

// addEgress adds a destination that is not there, in the form that mvm shows.
func addEgress(s *mvm.PoolSpec, text string) error {
	d, err := egress.Parse(text)
	if err == nil && !slices.ContainsFunc(s.Egress, sameDestination(d)) {
		s.Egress = append(slices.Clone(s.Egress), d.String())
	}
	return err
}

func removeEgress(s *mvm.PoolSpec, text string) error {
	d, err := egress.Parse(text)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(s.Egress), sameDestination(d))
	if len(kept) == len(s.Egress) {
		return mvm.Errorf(mvm.KindNotFound, "--unset-egress %s: the pool's egress has no such destination", text).
			WithFix("see `mvm pool info`")
	}
	s.Egress = kept
	return nil
}

func sameDestination(d egress.Destination) func(string) bool {
	return func(have string) bool { h, err := egress.Parse(have); return err == nil && h == d }
}

// addPublish publishes one more port. One that has the same place on the host, or that
// the host chose for the same port of the guest, is changed instead.
func addPublish(s *mvm.PoolSpec, text string) error {
	p, err := mvm.ParsePublish(text)
	if err != nil {
		return err
	}
	same := func(have mvm.Publish) bool {
		return have.Host == p.Host && (p.Host.Port() != 0 || have.Guest == p.Guest)
	}
	s.Publish = slices.Clone(s.Publish)
	if n := slices.IndexFunc(s.Publish, same); n >= 0 {
		s.Publish[n] = p
		return nil
	}
	s.Publish = append(s.Publish, p)
	return nil
}

func unpublish(s *mvm.PoolSpec, text string) error {
	p, err := mvm.ParsePublish(text)
	if err != nil {
		return err
	}
	named := func(have mvm.Publish) bool {
		return have.Guest == p.Guest && (p.Host.Port() == 0 || have.Host == p.Host)
	}
	kept := slices.DeleteFunc(slices.Clone(s.Publish), named)
	if len(kept) == len(s.Publish) {
		return mvm.Errorf(mvm.KindNotFound, "--unpublish %s: the pool publishes no such port", text).
			WithFix("see `mvm pool info`")
	}
	s.Publish = kept
	return nil
}

func setScope(s *mvm.PoolSpec, text string) error {
	name, keys, ok := strings.Cut(text, "=")
	if !ok || keys == "" {
		return mvm.Errorf(mvm.KindInvalid, "--secret-scope %q is not INTEGRATION=KEY,KEY", text)
	}
	scope := mvm.SecretScope{Integration: name, Keys: strings.Split(keys, ",")}
	s.SecretScopes = slices.Clone(s.SecretScopes)
	if n := slices.IndexFunc(s.SecretScopes, func(have mvm.SecretScope) bool { return have.Integration == name }); n >= 0 {
		s.SecretScopes[n] = scope
		return nil
	}
	s.SecretScopes = append(s.SecretScopes, scope)
	return nil
}
