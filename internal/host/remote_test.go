package host_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm/internal/cli"
	"mvm/internal/host"
	"mvm/internal/manifest"
	"mvm/internal/pki"
	"mvm/internal/testenv"
)

// A revocation list older than one that was in force is refused also after a restart,
// which says which one is wanted; what it revoked stays so.
func TestOlderRevocationListAfterARestart(t *testing.T) {
	dir := testenv.Dir(t)
	certs := filepath.Join(dir, "certs")
	d := pki.At(certs, "mvm")
	_, err := d.Init(time.Now())
	must(t, err)
	_, err = d.RotateNode("n1", []string{"127.0.0.1"}, 24*time.Hour, time.Now())
	must(t, err)
	_, _, _, err = d.NewClient("laptop", "", 24*time.Hour, time.Now())
	must(t, err)
	o := options(dir)
	o.Remote = manifest.RemoteConfig{Listen: "127.0.0.1:0", CertDir: certs, TrustDomain: "mvm", CertHours: 24, Rate: 20, Burst: 100, Connections: 8}
	run := func() {
		t.Helper()
		_, stop := serve(t, o)
		stop()
	}
	run()
	path := filepath.Join(certs, "ca.crl")
	older, err := os.ReadFile(path)
	must(t, err)
	_, err = d.Revoke("client/laptop", time.Now())
	must(t, err)
	latest, err := os.ReadFile(path)
	must(t, err)
	run()

	must(t, os.WriteFile(path, older, 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = host.Serve(ctx, o, nil) // which ends it where it serves
	if cli.ExitCode(err) != 4 || !strings.Contains(err.Error(), "is older than the last one used, 2") || !strings.Contains(err.Error(), "copy the latest ca.crl") {
		t.Errorf("with the older list: %v", err)
	}
	must(t, os.WriteFile(path, latest, 0o644))
	run()

	// Another CA's list has a number of its own.
	must(t, os.RemoveAll(certs))
	_, err = d.Init(time.Now())
	must(t, err)
	_, err = d.RotateNode("n1", []string{"127.0.0.1"}, 24*time.Hour, time.Now())
	must(t, err)
	run()
}
