package doctor_test

import (
	"context"
	"strings"
	"testing"

	"mvm/internal/doctor"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
)

// Where mvm hostd has the rights it is what has to be there, not root.
func TestHostd(t *testing.T) {
	uid := 64_400
	_, socket := hostdtest.Serve(t, hostd.Options{})
	f := find(t, doctor.Host(context.Background(), doctor.Options{Root: t.TempDir(), UID: &uid, Hostd: socket, Hello: hostd.NewClient(socket).Hello}), "mvm hostd")
	if f.Severity != "ok" || f.Where != socket {
		t.Errorf("with a server: %+v", f)
	}
	f = find(t, doctor.Host(context.Background(), doctor.Options{Root: t.TempDir(), UID: &uid, Hostd: socket + "x", Hello: hostd.NewClient(socket + "x").Hello}), "mvm hostd")
	if f.Severity != "error" || !strings.Contains(f.Fix, "mvm-hostd") {
		t.Errorf("without one: %+v", f)
	}
}
