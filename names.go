package mvm

import (
	"fmt"
	"strings"
)

// MaxNameLen is the longest tenant, pool or deployment id (formats.md section 1).
const MaxNameLen = 63

// ValidateName checks a tenant, pool or deployment id: 1 to 63 characters of
// [a-z0-9-], no leading or trailing '-'. what names the thing in the error.
func ValidateName(what, name string) error {
	bad := func(why string) error {
		return Errorf(KindInvalid, "%s id %q %s", what, clip(name), why).
			WithFix("use 1-63 characters of a-z, 0-9 and '-', not starting or ending with '-'")
	}
	switch {
	case name == "":
		return bad("is empty")
	case len(name) > MaxNameLen:
		return bad("is too long")
	case name[0] == '-' || name[len(name)-1] == '-':
		return bad("starts or ends with '-'")
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return bad("has a character that is not allowed")
		}
	}
	return nil
}

// ValidateInstanceID checks an instance id: "i-" and 8 lower-case hex digits.
func ValidateInstanceID(id string) error { return validateHexID("instance", "i-", id) }

// ValidateBuildID checks a build id: "b-" and 8 lower-case hex digits.
func ValidateBuildID(id string) error { return validateHexID("build", "b-", id) }

// ValidateNodeID checks the name of a host: 1 to 64 of [A-Za-z0-9._-], as host names
// have them, not starting with '.' or '-'.
func ValidateNodeID(id string) error {
	ok := id != "" && len(id) <= 64 && id[0] != '.' && id[0] != '-'
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if !ok {
		return Errorf(KindInvalid, "node id %q is not 1-64 of A-Z, a-z, 0-9, '.', '_', '-'", clip(id))
	}
	return nil
}

func validateHexID(what, prefix, id string) error {
	hex, ok := strings.CutPrefix(id, prefix)
	if !ok || len(hex) != 8 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Errorf(KindInvalid, "%s id %q is not %q and 8 hex digits", what, clip(id), prefix)
	}
	return nil
}

// clip bounds a hostile name before it is put into an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Address names a tenant ("acme"), a pool ("acme/workers"), an instance
// ("acme/workers/i-a3f7b2c1" or just "i-a3f7b2c1") or the instance of a key
// ("acme/workers@key"). Empty fields are not part of the address.
type Address struct {
	Tenant, Pool, Instance, Key string
}

// ParseAddress parses any form of address and validates its parts.
func ParseAddress(s string) (Address, error) {
	var a Address
	bad := func(err error) (Address, error) { return Address{}, err }
	if strings.HasPrefix(s, "i-") && ValidateInstanceID(s) == nil {
		return Address{Instance: s}, nil
	}
	if base, key, ok := strings.Cut(s, "@"); ok {
		if err := ValidateKey(key); err != nil {
			return bad(err)
		}
		if strings.Count(base, "/") != 1 {
			return bad(Errorf(KindInvalid, "address %q: a key needs tenant/pool before its @", clip(s)))
		}
		a.Key, s = key, base
	}
	parts := strings.Split(s, "/")
	if len(parts) > 3 {
		return bad(Errorf(KindInvalid, "address %q has more than tenant/pool/instance", clip(s)))
	}
	a.Tenant = parts[0]
	if err := ValidateName("tenant", a.Tenant); err != nil {
		return bad(err)
	}
	if len(parts) > 1 {
		a.Pool = parts[1]
		if err := ValidateName("pool", a.Pool); err != nil {
			return bad(err)
		}
	}
	if len(parts) > 2 {
		a.Instance = parts[2]
		if err := ValidateInstanceID(a.Instance); err != nil {
			return bad(err)
		}
	}
	return a, nil
}

// String returns the address in the form that ParseAddress reads.
func (a Address) String() string {
	switch {
	case a.Tenant == "":
		return a.Instance
	case a.Pool == "":
		return a.Tenant
	case a.Key != "":
		return fmt.Sprintf("%s/%s@%s", a.Tenant, a.Pool, a.Key)
	case a.Instance == "":
		return a.Tenant + "/" + a.Pool
	}
	return a.Tenant + "/" + a.Pool + "/" + a.Instance
}

// MaxKeyLen bounds the key of an instance, in bytes.
const MaxKeyLen = 128

// ValidateKey checks the key that names a user within a pool: 1 to 128 bytes of
// printable ASCII without space and '/': an e-mail address is one. Keys come from
// requests: they are hostile until checked.
func ValidateKey(key string) error {
	if key == "" || len(key) > MaxKeyLen {
		return Errorf(KindInvalid, "key %q must have 1 to %d bytes", clip(key), MaxKeyLen)
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' || c == '/' {
			return Errorf(KindInvalid, "key %q has a character that is not allowed", clip(key)).
				WithFix("use printable ASCII without space and '/'")
		}
	}
	return nil
}

// MaxSecretName bounds the name of a secret, in bytes.
const MaxSecretName = 64

// ValidateSecretName checks the name of a secret, which becomes a file name in the
// guest: 1 to 64 of [A-Za-z0-9_.-], not starting with '.' or '-'.
func ValidateSecretName(name string) error {
	ok := name != "" && len(name) <= MaxSecretName && name[0] != '.' && name[0] != '-'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	if !ok {
		return Errorf(KindInvalid, "secret name %q is not 1-64 of A-Z, a-z, 0-9, '_', '-', '.'", clip(name))
	}
	return nil
}
