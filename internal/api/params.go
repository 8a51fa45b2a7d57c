package api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvm"
)

// params are what a request says in its path and query, validated.
type params struct {
	tenant, pool string
	addr         mvm.Address
	instance     string
	service      string
	tail         int
	follow       bool
	console      bool
	previous     bool
	since        time.Time
	actions      []mvm.Action
	after        uint64
	expect       string
	snapshot     string
	build        string
	message      int64
}

// newParams reads path and query; what is unknown, doubled or malformed is refused.
func newParams(r *http.Request) (params, error) {
	vals, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return params{}, mvm.Errorf(mvm.KindInvalid, "parameters of the request: %w", err)
	}
	for _, name := range []string{"tenant", "pool", "address", "snapshot", "message", "build"} {
		if v := r.PathValue(name); v != "" {
			vals[name] = append(vals[name], v)
		}
	}
	var p params
	for name, vs := range vals {
		if len(vs) != 1 {
			return params{}, mvm.Errorf(mvm.KindInvalid, "parameter %.40q is given twice", name)
		}
		if vs[0] == "" {
			continue
		}
		if err := p.set(name, vs[0]); err != nil {
			return params{}, err
		}
	}
	return p, nil
}

func (p *params) set(name, v string) (err error) {
	switch name {
	case "tenant":
		p.tenant = v
		return mvm.ValidateName("tenant", v)
	case "pool":
		p.pool = v
		return mvm.ValidateName("pool", v)
	case "instance":
		p.instance = v
		return mvm.ValidateInstanceID(v)
	case "address":
		p.addr, err = mvm.ParseAddress(v)
		return err
	case "snapshot":
		p.snapshot = v
		return mvm.ValidateSnapshotID(v)
	case "build":
		p.build = v
		return mvm.ValidateBuildID(v)
	case "message":
		p.message, err = mvm.ParseMessageNumber(v)
		return err
	case "service":
		p.service = v
		return mvm.ValidateName("service", v)
	case "tail":
		p.tail, err = strconv.Atoi(v)
		if err != nil || p.tail < 0 {
			return mvm.Errorf(mvm.KindInvalid, "parameter tail %.40q is not a number from 0", v)
		}
		return nil
	case "since":
		if p.since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return mvm.Errorf(mvm.KindInvalid, "parameter since %.40q is not a time as 2026-01-02T15:04:05Z", v)
		}
		return nil
	case "action":
		p.actions, err = parseActions(v)
		return err
	case "after":
		if p.after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return mvm.Errorf(mvm.KindInvalid, "parameter after %.40q is not a number from 0", v)
		}
		return nil
	case "expect":
		p.expect = v
		return nil
	case "follow":
		return parseBool(name, v, &p.follow)
	case "console":
		return parseBool(name, v, &p.console)
	case "previous":
		return parseBool(name, v, &p.previous)
	}
	return mvm.Errorf(mvm.KindInvalid, "parameter %.40q is unknown", name)
}

// parseActions reads names of actions with commas between them.
func parseActions(v string) (out []mvm.Action, err error) {
	for name := range strings.SplitSeq(v, ",") {
		act := mvm.Action(name)
		if !slices.Contains(mvm.Actions(), act) {
			return nil, mvm.Errorf(mvm.KindInvalid, "parameter action %.40q is unknown", name)
		}
		if !slices.Contains(out, act) {
			out = append(out, act)
		}
	}
	return out, nil
}

func parseBool(name, v string, to *bool) (err error) {
	if *to, err = strconv.ParseBool(v); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "parameter %s %.40q is not true or false", name, v)
	}
	return nil
}

// needInstance refuses an address that does not name one instance.
func (p params) needInstance() error {
	if p.addr.Instance == "" && p.addr.Key == "" {
		return mvm.Errorf(mvm.KindInvalid, "address %q does not name an instance", p.addr).
			WithFix("use tenant/pool/instance, tenant/pool@key or an instance id")
	}
	return nil
}
