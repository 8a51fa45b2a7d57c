package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/trust"
)

// FuzzPublicKey: a file among the trusted keys is one whole key, or the reason why
// none is trusted.
func FuzzPublicKey(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, ed25519.PublicKeySize))
	f.Add([]byte(key))
	f.Add([]byte(key + "\n"))
	f.Add([]byte(key + "\n" + key))
	f.Add([]byte(key[:len(key)-1]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.pub"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := trust.Load(dir)
		if err != nil {
			if keys != nil {
				t.Errorf("%q: an error and keys %v", b, keys)
			}
			return
		}
		if len(keys) != 1 || base64.StdEncoding.EncodeToString(keys[0].Public) != string(bytes.TrimSpace(b)) {
			t.Errorf("%q is read as %v", b, keys)
		}
	})
}
