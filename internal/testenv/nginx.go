package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Nginx returns the path of an nginx: the host's, or Debian's package in the cache. That
// is unpacked, not installed, or a web server would start on the host.
func Nginx(t testing.TB) string {
	t.Helper()
	if path, err := exec.LookPath("nginx"); err == nil {
		return path
	}
	dir := filepath.Join(Cache(t), "nginx")
	binary := filepath.Join(dir, "usr/sbin/nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer lock(t, filepath.Join(dir, "lock"))()
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	cmd := exec.Command("sh", "-ec", "rm -f nginx_*.deb; apt-get download -qq nginx; dpkg-deb --extract nginx_*.deb .; rm nginx_*.deb")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("get Debian's nginx: %v\n%s\nrun `apt-get update`, or install nginx", err, out)
	}
	return binary
}
