package workload

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/guest/definition"
)

// The services of an image, as its definitions have them.
type (
	Service      = definition.Service
	Ready        = definition.Ready
	OnSecrets    = definition.OnSecrets
	ServiceError = definition.Error
)

// LoadServices reads every *.json of the folder, which need not be there, and returns the
// services in the order of definition.All, and its errors.
func LoadServices(dir string) ([]Service, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "list services in %s: %w", dir, err)
	}
	files := map[string][]byte{}
	var errs []error
	for _, path := range paths[:min(len(paths), definition.Max+1)] { // one too many is told of
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		b, err := readDefinition(path)
		if err != nil {
			errs = append(errs, &ServiceError{Service: name, Err: err})
			continue
		}
		files[name] = b
	}
	services, err := definition.All(files)
	return services, errors.Join(append(errs, err)...)
}

// readDefinition reads the file, and no more of it than shows that it is too large.
func readDefinition(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, definition.MaxBytes+1))
}
