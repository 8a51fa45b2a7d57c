package mvm_test

import (
	"strings"
	"testing"

	"mvm"
)

func TestPublishWithSourcesOfProxyHeaders(t *testing.T) {
	for text, want := range map[string]string{
		"8443,proxy-from=192.0.2.0/24":                                "192.0.2.0/24",
		"0.0.0.0:443:8443,proxy-from=192.0.2.7/32,proxy-from=::1/128": "192.0.2.7/32,::1/128",
		"443:8443": "",
	} {
		p, err := mvm.ParsePublish(text)
		if err != nil || p.ProxyFrom != want {
			t.Errorf("%s: sources %q, %v; want %q", text, p.ProxyFrom, err, want)
		}
		if again, err := mvm.ParsePublish(p.String()); err != nil || again != p {
			t.Errorf("%s: written as %s, and read as %+v, %v", text, p, again, err)
		}
	}
	for _, text := range []string{"8443,proxy-from=", "8443,proxy-from=192.0.2.7", "8443,proxy-from=192.0.2.7/24", "8443,proxy-from=0.0.0.0/0,",
		"8443,proxy-from=::ffff:192.0.2.0/120", "8443,proxy-from=10.0.0.0/8 ", "8443,10.0.0.0/8", "8443" + strings.Repeat(",proxy-from=10.0.0.0/8", mvm.MaxProxyFrom+1)} {
		if p, err := mvm.ParsePublish(text); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%.60s: %+v, %v; want a refusal", text, p, err)
		}
	}
	spec := mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "builtin:gateway", Resources: mvm.DefaultResources(),
		Policy: mvm.DefaultRuntimePolicy()}
	p, err := mvm.ParsePublish("8443,proxy-from=192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	spec.Publish = []mvm.Publish{p}
	if err := spec.Validate(); err != nil {
		t.Error(err)
	}
	spec.Publish[0].ProxyFrom = "192.0.2.0/24, 10.0.0.0/8"
	if err := spec.Validate(); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("sources as nobody may write them: %v, want a refusal", err)
	}
}
