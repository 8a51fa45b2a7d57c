package networktest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"mvm"
	"mvm/internal/network"
)

func tapLives(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3, 4))
	apply(t, s, cfg)
	a := openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[1])
	wantLinks(t, s, "br-tenant-3", "tn3i3", "tn3i4")
	wantNoErrors(t, s)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantLinks(t, s, "br-tenant-3", "tn3i4")
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	wantLinks(t, s, "br-tenant-3", "tn3i3", "tn3i4")
}

func tapOnce(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3))
	apply(t, s, cfg)
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	_, err := s.Network.OpenTAP(ctx(t), "acme", cfg.Tenants[0].Instances[0].ID, 0)
	wantKind(t, err, mvm.KindState)
	wantLinks(t, s, "br-tenant-3", "tn3i3")
}

func tapNeedsInstance(t *testing.T, s Subject) {
	apply(t, s, Config(Tenant("acme", 3, 3), Tenant("zeta", 4, 5)))
	for _, c := range [][2]string{{"acme", "i-00000000"}, {"nobody", instanceID(3, 3)}, {"acme", instanceID(4, 5)}} {
		_, err := s.Network.OpenTAP(ctx(t), c[0], c[1], 0)
		wantKind(t, err, mvm.KindNotFound)
	}
	wantLinks(t, s, "br-tenant-3", "br-tenant-4")
}

func sweepNeedsConfig(t *testing.T, s Subject) {
	_, err := s.Network.Sweep(ctx(t))
	wantKind(t, err, mvm.KindState)
}

func sweepKeeps(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3))
	apply(t, s, cfg)
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	before := s.State()
	removed, err := s.Network.Sweep(ctx(t))
	if err != nil || len(removed) != 0 {
		t.Errorf("sweep: got %q, %v, want nothing removed", removed, err)
	}
	if after := s.State(); after != before {
		t.Errorf("sweep changed the state from\n%s\nto\n%s", before, after)
	}
}

func sweepRemoves(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3, 4))
	apply(t, s, cfg)
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[1])
	apply(t, s, Config(Tenant("acme", 3, 4)))
	removed, err := s.Network.Sweep(ctx(t))
	if err != nil || !slices.Equal(removed, []string{"tn3i3"}) {
		t.Errorf("sweep: got %q, %v, want tn3i3 removed", removed, err)
	}
	wantLinks(t, s, "br-tenant-3", "tn3i4")
}

func verifyFinds(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3))
	apply(t, s, cfg)
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	apply(t, s, Config(Tenant("acme", 3)))
	before := s.State()
	findings, err := s.Network.Verify(ctx(t))
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	at := slices.IndexFunc(findings, func(f network.Finding) bool { return f.Where == "tn3i3" })
	if at < 0 || findings[at].Severity != "error" || findings[at].Fix == "" {
		t.Errorf("verify: got %+v, want an error at tn3i3 with its fix", findings)
	}
	if after := s.State(); after != before {
		t.Errorf("verify changed the state from\n%s\nto\n%s", before, after)
	}
}

func manyAtOnce(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3, 4, 5, 6), Tenant("zeta", 4, 3, 4, 5, 6))
	apply(t, s, cfg)
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for _, tenant := range cfg.Tenants {
		for _, i := range tenant.Instances {
			wg.Go(func() {
				if err := s.Network.Apply(ctx(t), cfg); err != nil {
					errs <- fmt.Errorf("apply: %w", err)
				}
				f, err := s.Network.OpenTAP(ctx(t), tenant.ID, i.ID, 0)
				if err != nil {
					errs <- err
					return
				}
				t.Cleanup(func() { _ = f.Close() })
				if removed, err := s.Network.Sweep(ctx(t)); err != nil || len(removed) > 0 {
					errs <- fmt.Errorf("sweep: %q, %w", removed, err)
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	wantLinks(t, s, "br-tenant-3", "br-tenant-4", "tn3i3", "tn3i4", "tn3i5", "tn3i6", "tn4i3", "tn4i4", "tn4i5", "tn4i6")
	wantNoErrors(t, s)
}

func closes(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3))
	apply(t, s, cfg)
	if err := s.Network.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if err := s.Network.Close(); err != nil {
		t.Errorf("second close: got %v, want nil", err)
	}
	wantKind(t, s.Network.Apply(ctx(t), cfg), mvm.KindState)
	_, err := s.Network.OpenTAP(ctx(t), "acme", cfg.Tenants[0].Instances[0].ID, 0)
	wantKind(t, err, mvm.KindState)
}
