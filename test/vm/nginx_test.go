package vm_test

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"testing"

	"mvm/internal/image"
	"mvm/internal/testenv"
)

// imgNginx is builtin:minimal with Debian's nginx, to measure the gateway against.
const imgNginx = "nginx"

// prepareNginx makes the image of nginx. Its libraries are the host's.
func prepareNginx(t *testing.T, minimal image.Image) {
	t.Helper()
	binary := testenv.Nginx(t)
	files := map[string]string{"/bin/nginx": binary, "/lib64/ld-linux-x86-64.so.2": "/lib64/ld-linux-x86-64.so.2"}
	addLibraries(t, files, binary)
	writeImageOf(t, imgNginx, minimal, files, "")
}

// addLibraries adds the libraries that the program or library needs, and those that
// they need.
func addLibraries(t *testing.T, files map[string]string, path string) {
	t.Helper()
	f, err := elf.Open(path)
	must(t, err)
	defer f.Close()
	needed, err := f.ImportedLibraries()
	must(t, err)
	for _, name := range needed {
		in := filepath.Join("/lib/x86_64-linux-gnu", name)
		if _, there := files[in]; there || name == "ld-linux-x86-64.so.2" {
			continue
		}
		files[in] = in
		addLibraries(t, files, in)
	}
}

// nginxPool is a pool of one nginx with the server block.
func nginxPool(id, http string) string {
	return fmt.Sprintf(`
[[pools]]
id = %q
flake = %q
vcpus = 1
mem_mib = 256
desired_running = 1
[pools.env]
MVM_READY_TCP = "8000"
MVM_COMMAND = '''
for d in b p f u s; do mkdir -p /tmp/$d; done
cat >/tmp/nginx.conf <<"END"
user root;
worker_processes 1;
daemon off;
pid /tmp/nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
	access_log off;
	keepalive_requests 100000000;
	client_body_temp_path /tmp/b;
	proxy_temp_path /tmp/p;
	fastcgi_temp_path /tmp/f;
	uwsgi_temp_path /tmp/u;
	scgi_temp_path /tmp/s;
%s
}
END
exec nginx -e stderr -c /tmp/nginx.conf
'''
`, id, imageRef(imgNginx), http)
}
