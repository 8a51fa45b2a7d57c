package desired_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/desired"
)

// example is the one of the documentation; it says every field.
func example(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/desired.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// formats is the example of the format's own description.
const formats = `{"schema_version":1,"node_id":"node-1","tenants":[{"tenant_id":"acme",
 "network":{"tenant_net_id":3,"ipv4_subnet":"10.240.3.0/24"},
 "quotas":{"max_vcpus":16,"max_mem_mib":32768,"max_running":8,"max_warm":4,"max_pools":4,"max_instances_per_pool":16,"max_disk_gib":100},
 "secrets_hash":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
 "pools":[{"pool_id":"workers","flake_ref":"builtin:worker","profile":"minimal","role":"worker",
   "instance_resources":{"vcpus":2,"mem_mib":1024,"data_disk_mib":2048},
   "desired_counts":{"running":3,"warm":1,"sleeping":2},
   "runtime_policy":{"min_running_seconds":60,"min_warm_seconds":30,"drain_timeout_seconds":30,"graceful_shutdown_seconds":15},
   "seccomp_policy":"baseline","snapshot_compression":"zstd","routing_table":null,"secret_scopes":[]}]}],
 "prune_unknown_tenants":false,"prune_unknown_pools":false}`

func decode(t testing.TB, text string) desired.Document {
	t.Helper()
	d, err := desired.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheFormatsExampleIsRead(t *testing.T) {
	got := decode(t, formats).Deployments()
	want := []mvm.Deployment{{
		Tenant: mvm.TenantSpec{ID: "acme", NetID: new(3), Subnet: mvm.DefaultSubnet(3), Quota: new(mvm.DefaultQuota())},
		Pools: []mvm.PoolSpec{{ID: "workers", Flake: "builtin:worker", Profile: "minimal", Role: mvm.RoleWorker,
			Resources: mvm.Resources{VCPUs: 2, MemMiB: 1024, DataDiskMiB: 2048}, Desired: mvm.Counts{Running: 3, Warm: 1, Sleeping: 2},
			Policy: mvm.DefaultRuntimePolicy(), SecretScopes: []mvm.SecretScope{}}},
	}}
	if diff := cmp.Diff(want, got, comparePrefix()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsLeftOutHasItsDefault(t *testing.T) {
	d := decode(t, `{"schema_version":1,"node_id":"n","tenants":[{"tenant_id":"a","quotas":{"max_pools":9},
		"pools":[{"pool_id":"w","flake_ref":"builtin:worker","runtime_policy":{"min_warm_seconds":7}}]}]}`)
	quota, policy := mvm.DefaultQuota(), mvm.DefaultRuntimePolicy()
	quota.MaxPools, policy.MinWarmSeconds = 9, 7
	want := desired.Tenant{TenantID: "a", Quotas: quota, Pools: []desired.Pool{{PoolID: "w", FlakeRef: "builtin:worker", Profile: "minimal",
		Role: mvm.RoleWorker, Resources: mvm.DefaultResources(), RuntimePolicy: policy, SeccompPolicy: "baseline", SnapshotCompression: "none"}}}
	if diff := cmp.Diff(want, d.Tenants[0], comparePrefix()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// minimal is a document with one thing in it replaced.
func minimal(old, repl string) string {
	const text = `{"schema_version":1,"node_id":"n","tenants":[{"tenant_id":"a","quotas":{"max_pools":2},"network":{"tenant_net_id":1},` +
		`"pools":[{"pool_id":"w","flake_ref":"builtin:worker","desired_counts":{"running":1}}]}]}`
	if !strings.Contains(text, old) {
		panic(old)
	}
	return strings.Replace(text, old, repl, 1)
}

func TestDocumentsThatAreRefused(t *testing.T) {
	const tenant = `{"tenant_id":"a"`
	pool := func(rest string) string {
		return minimal(`"flake_ref":"builtin:worker"`, `"flake_ref":"builtin:worker",`+rest)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                {"", "unexpected end of JSON input"},
		"not JSON":               {"{\n \"a\": x}", "line 2, column 7: invalid character 'x'"},
		"something after it":     {minimal("]}]}", "]}]} {}"), "after top-level value"},
		"not UTF-8":              {minimal(`"n"`, "\"\xff\""), "not UTF-8"},
		"a list":                 {"[]", "is a list, not an object"},
		"another version":        {minimal(":1", ":2"), "schema_version: is 2, and this mvm knows version 1"},
		"no version":             {minimal(`"schema_version":1,`, ""), "schema_version: is missing"},
		"no node":                {minimal(`"node_id":"n",`, ""), "node_id: is missing"},
		"bad node":               {minimal(`"n"`, `"a b"`), `node_id: node id "a b"`},
		"no tenants":             {`{"schema_version":1,"node_id":"n"}`, "tenants: is missing"},
		"null tenants":           {`{"schema_version":1,"node_id":"n","tenants":null}`, "tenants: is missing"},
		"no pools":               {`{"schema_version":1,"node_id":"n","tenants":[{"tenant_id":"a"}]}`, "tenants[0].pools: is missing"},
		"unknown at the top":     {minimal(`"node_id"`, `"node":1,"node_id"`), "node: unknown field"},
		"unknown in a tenant":    {minimal(`"quotas"`, `"quota":{},"quotas"`), "tenants[0].quota: unknown field (did you mean quotas?)"},
		"unknown in quotas":      {minimal(`"max_pools"`, `"max_pool"`), "tenants[0].quotas.max_pool: unknown field (did you mean max_pools?)"},
		"unknown in counts":      {minimal(`"running"`, `"running_"`), "tenants[0].pools[0].desired_counts.running_: unknown field (did you mean running?)"},
		"wrong case":             {minimal(`"running"`, `"Running"`), "desired_counts.Running: unknown field (did you mean running?)"},
		"unknown in a route":     {pool(`"role":"gateway","routing_table":{"routes":[{"nam":1}]}`), "routing_table.routes[0].nam: unknown field (did you mean name?)"},
		"unknown in a scope":     {pool(`"secret_scopes":[{"integration":"a","key":[]}]`), "secret_scopes[0].key: unknown field"},
		"unknown in integration": {pool(`"integrations":[{"name":"a","x":[{"y":{}}]}]`), "integrations[0].x: unknown field"},
		"unknown in publish":     {pool(`"publish":[{"hots":"1.2.3.4:5"}]`), "publish[0].hots: unknown field (did you mean host?)"},
		"twice":                  {minimal(tenant, tenant+`,"tenant_id":"a"`), "tenants[0].tenant_id: is given twice"},
		"twice, escaped":         {minimal(tenant, tenant+`,"tenant_\u0069d":"a"`), "tenants[0].tenant_id: is given twice"},
		"twice in a map":         {pool(`"env":{"A":"1","A":"1"}`), "env.A: is given twice"},
		"twice in a selector":    {pool(`"role":"gateway","routing_table":{"routes":[{"target":{"instance_selector":{"by_ip":"1.1.1.1","by_ip":"1.1.1.1"}}}]}`), "instance_selector.by_ip: is given twice"},
		"twice in the unknown":   {minimal(tenant, tenant+`,"x":{"a":1,"a":1}`), "tenants[0].x.a: is given twice"},
		"deep":                   {minimal(tenant, tenant+`,"x":`+strings.Repeat("[", 99)+strings.Repeat("]", 99)), "is nested deeper than 16"},
		"a string for a number":  {minimal(`"running":1`, `"running":"1"`), "tenants[0].pools[0].desired_counts.running: is a string, not an integer"},
		"a fraction":             {minimal(`"running":1`, `"running":1.5`), "running: 1.5 is not an integer"},
		"a huge number":          {minimal(`"running":1`, `"running":99999999999999999999`), "running: 99999999999999999999 is not an integer in range"},
		"null for a number":      {minimal(`"running":1`, `"running":null`), "running: is null, not an integer"},
		"a number for a string":  {minimal(`"n"`, `1`), "node_id: is a number, not a string"},
		"a bool for an object":   {minimal(`{"running":1}`, `true`), "desired_counts: is true, not an object"},
		"an object for a list":   {minimal(`[{"tenant_id"`, `{"x":[{"tenant_id"`) + "}", "tenants: is an object, not a list"},
		"bad subnet":             {minimal(`"tenant_net_id":1`, `"ipv4_subnet":"10.0.0.0"`), `network.ipv4_subnet: "10.0.0.0" is not valid`},
		"null subnet":            {minimal(`"tenant_net_id":1`, `"ipv4_subnet":null`), `network.ipv4_subnet: is null`},
		"count over 100":         {minimal(`"running":1`, `"running":101`), "desired running 101 is not in 0..100"},
		"negative count":         {minimal(`"running":1`, `"sleeping":-1`), "desired sleeping -1"},
		"bad tenant id":          {minimal(`"a"`, `"A"`), `tenants[0]: tenant id "A"`},
		"bad pool id":            {minimal(`"w"`, `"../w"`), `tenants[0].pools[0]: pool id "../w"`},
		"bad hash":               {minimal(tenant, tenant+`,"secrets_hash":"sha256:12"`), `tenants[0].secrets_hash: "sha256:12" is not`},
		"policy unknown":         {pool(`"seccomp_policy":"strict"`), `tenants[0].pools[0].seccomp_policy: "strict" is not there: the policy of every VMM is "baseline"`},
		"compression unknown":    {pool(`"snapshot_compression":"lz4"`), `snapshot_compression: "lz4" is not "none" or "zstd"`},
		"more pools than quota":  {minimal(`"max_pools":2`, `"max_pools":0`), "quota max_pools is 0"},
		"pool twice":             {minimal(`{"pool_id":"w"`, `{"pool_id":"w","flake_ref":"builtin:worker"},{"pool_id":"w"`), `pools[1].pool_id: pool "w" is given twice`},
		"route to nowhere": {pool(`"role":"gateway","routing_table":{"routes":[{"name":"r","match_rule":{"port":1},"target":{"pool_id":"x","instance_selector":"any","target_port":1}}]}`),
			`tenants[0].pools[0].routing_table.routes[0].target.pool_id: pool "x" is not in the tenant`},
		"too large": {strings.Repeat(" ", desired.MaxBytes+1), "more than 4194304"},
		"too many":  {minimal(tenant, tenant+`,"host_services":[`+strings.Repeat("1,", desired.MaxEntries)+"1]"), "tenants[0].host_services: has more than 4096 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := desired.Decode([]byte(c.text))
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a refusal that says %q", err, c.want)
			}
		})
	}
}

func TestTenantsThatMeetAreRefused(t *testing.T) {
	two := func(b string) string {
		return minimal(`]}]}`, `]},{`+b+`,"pools":[]}]}`)
	}
	for name, c := range map[string]struct{ text, want string }{
		"id":                    {two(`"tenant_id":"a"`), `tenants[1].tenant_id: tenant "a" is given twice`},
		"net_id":                {two(`"tenant_id":"b","network":{"tenant_net_id":1,"ipv4_subnet":"10.9.0.0/24"}`), `tenants[1].network.tenant_net_id: tenant "a" has 1 too`},
		"subnet":                {two(`"tenant_id":"b","network":{"ipv4_subnet":"10.240.1.0/24"}`), "tenants[1].network.ipv4_subnet: 10.240.1.0/24 overlaps 10.240.1.0/24"},
		"a wider subnet":        {two(`"tenant_id":"b","network":{"tenant_net_id":2,"ipv4_subnet":"10.240.0.0/16"}`), "10.240.0.0/16 overlaps 10.240.1.0/24 of tenant"},
		"the default of net_id": {two(`"tenant_id":"b","network":{"tenant_net_id":1}`), "overlaps"},
	} {
		if _, err := desired.Decode([]byte(c.text)); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", name, err, c.want)
		}
	}
	decode(t, two(`"tenant_id":"b","network":{"tenant_net_id":2}`))
}

func TestProblemsComeTogether(t *testing.T) {
	_, err := desired.Decode([]byte(`{"schema_version":1,"node":"n","tenants":[{"tenant_id":7,"pools":[{"pool_id":"w","flake_ref":[],"x":{}}]}]}`))
	var ps desired.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v", err)
	}
	var paths []string
	for _, p := range ps {
		paths = append(paths, p.Path)
	}
	want := []string{"node", "tenants[0].tenant_id", "tenants[0].pools[0].flake_ref", "tenants[0].pools[0].x", "node_id"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err = desired.Decode([]byte(`{"tenants":[` + strings.Repeat(`{"x":1},`, 4000) + `{}]}`)); !errors.As(err, &ps) || len(ps) != 20 {
		t.Errorf("got %d problems, want the first 20", len(ps))
	}
}

func TestTheDocumentedExampleComesBack(t *testing.T) {
	want := decode(t, example(t))
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, decode(t, string(b)), comparePrefix()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name := range strings.FieldsSeq("quotas secrets_hash routing_table secret_scopes publish env integrations critical pinned host_services by_key") {
		if !strings.Contains(example(t), `"`+name+`"`) {
			t.Errorf("the example does not show %s", name)
		}
	}
}
