package pki_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/pki"
)

func keep(t *testing.T, d *pki.Dir, life time.Duration) (*pki.Keeper, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	k := pki.NewKeeper(d, life, slog.New(slog.NewTextHandler(&log, nil)))
	if err := k.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k, &log
}

func TestRenewedInTheMiddleOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDir(t)
		k, log := keep(t, d, day)
		first := k.Node()
		time.Sleep(day/2 - time.Hour)
		synctest.Wait()
		if got := k.Node(); got.Serial != first.Serial {
			t.Errorf("renewed before the middle: %+v", got)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		second := k.Node()
		if second.Serial == first.Serial || time.Until(second.NotAfter) < day-2*time.Hour {
			t.Errorf("not renewed after the middle: %+v\n%s", second, log)
		}
		if second.Identity != first.Identity || strings.Join(second.Hosts, " ") != "node.example 127.0.0.1" {
			t.Errorf("renewed as %s for %v", second.Identity, second.Hosts)
		}
		time.Sleep(30 * day)
		synctest.Wait()
		if left := time.Until(k.Node().NotAfter); left < day/3 {
			t.Errorf("after a month the certificate has %s left", left)
		}
	})
}

func TestRenewedAtOnceWhenRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDir(t)
		k, _ := keep(t, d, day)
		first := k.Node()
		if _, err := d.Revoke("node/n1", time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if k.Node().Serial == first.Serial {
			t.Error("a node goes on with its revoked certificate")
		}
	})
}

// Without the CA's key a node says that its certificate comes to its end, and takes
// up a new one that is put there.
func TestKeptWithoutTheCAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer, path := newDir(t)
		d := pki.At(filepath.Join(t.TempDir(), "certs"), "mvm")
		install := func() {
			csr, err := d.NewRequest(pki.Identity{Domain: "mvm", Node: "n2"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			r, err := pki.ParseRequest(csr)
			if err != nil {
				t.Fatal(err)
			}
			cert, _, err := signer.Sign(r, day, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.InstallNode(cert, read(t, path, "ca.pem"), read(t, path, "ca.crl"), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		install()
		k, log := keep(t, d, day)
		first := k.Node()
		time.Sleep(day/2 + 90*time.Minute)
		synctest.Wait()
		if k.Node().Serial != first.Serial || strings.Count(log.String(), "CA's key is on another host") != 2 {
			t.Errorf("serial %s, log\n%s", k.Node().Serial, log)
		}
		install()
		if k.Node().Serial == first.Serial {
			t.Error("the new certificate is not taken up")
		}
	})
}

// Files that break, vanish or go back in time leave in force what was.
func TestBrokenFilesChangeNothing(t *testing.T) {
	d, path := newDir(t)
	k, log := keep(t, d, day)
	cert, _, _, err := d.NewClient("laptop", "", day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := mustParse(t, cert)
	if id, err := k.CheckClient(c); err != nil || id.Client != "laptop" {
		t.Fatalf("%+v, %v", id, err)
	}
	empty := read(t, path, "ca.crl")
	if _, err := d.Revoke("client/laptop", time.Now()); err != nil {
		t.Fatal(err)
	}
	before := k.Generation()
	list := read(t, path, "ca.crl")
	_, other := newDir(t)
	for name, text := range map[string][]byte{"older": empty, "garbage": []byte("x"), "another CA's": read(t, other, "ca.crl"), "gone": nil} {
		if err := os.Remove(filepath.Join(path, "ca.crl")); err != nil && text == nil {
			t.Fatal(err)
		}
		if text != nil {
			if err := os.WriteFile(filepath.Join(path, "ca.crl"), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := k.CheckClient(c); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "is revoked") {
			t.Errorf("with a revocation list that is %s: %v", name, err)
		}
		if text == nil {
			if err := os.WriteFile(filepath.Join(path, "ca.crl"), list, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if k.Generation() == before-1 || !strings.Contains(log.String(), "the earlier ones stay in force") {
		t.Errorf("generation %d, log\n%s", k.Generation(), log)
	}
	if err := os.WriteFile(filepath.Join(path, "node.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k.Node().Identity != "spiffe://mvm/node/n1" {
		t.Errorf("with a broken node.pem: %+v", k.Node())
	}
}

func TestClientsThatAreRefused(t *testing.T) {
	d, path := newDir(t)
	k, _ := keep(t, d, day)
	now := time.Now()
	client := func(d *pki.Dir, name string, life time.Duration, now time.Time) []byte {
		cert, _, _, err := d.NewClient(name, "", life, now)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	other, _ := newDir(t)
	for name, tc := range map[string]struct {
		cert []byte
		want string
	}{
		"good":          {client(d, "a", day, now), ""},
		"a fast clock":  {client(d, "b", day, now.Add(pki.Skew-time.Minute)), ""},
		"expired":       {client(d, "c", day, now.Add(-2*day)), "is valid from"},
		"not yet":       {client(d, "d", day, now.Add(2*pki.Skew)), "is valid from"},
		"another CA":    {client(other, "e", day, now), "unknown authority"},
		"a node":        {read(t, path, "node.pem"), "incompatible key usage"},
		"the CA itself": {read(t, path, "ca.pem"), "is neither a node's nor a client's"},
	} {
		_, err := k.CheckClient(mustParse(t, tc.cert))
		if tc.want == "" && err != nil || tc.want != "" && (!mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "certs")
	d := pki.At(path, "mvm")
	open := func() error {
		return pki.NewKeeper(d, day, slog.New(slog.DiscardHandler)).Open()
	}
	if err := open(); !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "mvm agent certs init") {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := d.Init(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := open(); !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "certificate of this node") {
		t.Errorf("no node: %v", err)
	}
}
