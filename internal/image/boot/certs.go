package boot

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// CAFile is where programs look for the certificates of public CAs.
const CAFile = "etc/ssl/certs/ca-certificates.crt"

// CABundle joins the certificates of ca-certificates into the file that programs read.
func CABundle(tree string) error {
	files, err := filepath.Glob(filepath.Join(tree, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("package ca-certificates has no certificates")
	}
	var bundle bytes.Buffer
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		bundle.Write(append(bytes.TrimSpace(pem), '\n'))
	}
	file := filepath.Join(tree, CAFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, bundle.Bytes(), 0o644)
}
