package image

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzManifest: whatever image.json says, an image that is taken has files within its
// folder, each of its own, and written again it is the same image.
func FuzzManifest(f *testing.F) {
	sum := strings.Repeat("0a", 32)
	for _, seed := range []string{
		`{"version":1,"name":"mine","arch":"amd64","cmdline":"quiet","kernel":{"name":"bzImage","size":6,"sha256":"` + sum + `"},"initrd":{"name":"initrd","size":1,"sha256":"` + sum + `"}}`,
		`{"version":1,"arch":"amd64","kernel":{"name":"k","size":6,"sha256":"` + sum + `"},"rootfs":{"name":"root.ext4","size":9,"sha256":"` + sum + `"},"rootfs_type":"ext4"}`,
		`{"version":1,"arch":"amd64","kernel":{"name":"../k","size":6,"sha256":"` + sum + `"}}`,
		`{"version":1}{}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := parseManifest(b)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range img.files() {
			if file.Name != filepath.Base(file.Name) || file.Name == ".." || file.Name == "." || file.Name == ManifestName || seen[file.Name] || file.Size <= 0 {
				t.Errorf("it has the file %+v", file)
			}
			seen[file.Name] = true
		}
		again, err := json.Marshal(img)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseManifest(again); err != nil || !reflect.DeepEqual(got, img) {
			t.Errorf("written again it is %+v, %v; it was %+v", got, err, img)
		}
	})
}
