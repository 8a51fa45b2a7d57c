package secrets_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const marker = "PLAINTEXT-c7a1"

func newKey(t testing.TB, fill byte) *secrets.Key {
	t.Helper()
	k, err := secrets.NewKey(bytes.Repeat([]byte{fill}, secrets.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func values() map[string][]byte {
	return map[string][]byte{"anthropic_key": []byte(marker), "binary": {0, 255, 1}, "empty": {}}
}

func seal(t testing.TB, k *secrets.Key, tenant string, generation int) []byte {
	t.Helper()
	b, err := k.Seal(tenant, generation, values())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenGivesWhatWasSealed(t *testing.T) {
	k := newKey(t, 1)
	sealed := seal(t, k, "acme", 3)
	got, err := k.Open("acme", 3, sealed)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(got, values(), bytes.Equal) {
		t.Errorf("got %v", got)
	}
	if bytes.Contains(sealed, []byte(marker)) || bytes.Contains(sealed, []byte("anthropic")) {
		t.Error("sealed bytes hold plaintext")
	}
	if bytes.Equal(sealed, seal(t, k, "acme", 3)) {
		t.Error("sealing twice gave the same bytes: the nonce is not fresh")
	}
	if got, err := k.Open("acme", 0, nil); err != nil || len(got) != 0 {
		t.Errorf("got %v %v of no bytes, want no secrets", got, err)
	}
}

func TestOpenRefusesWhatDoesNotBelong(t *testing.T) {
	k := newKey(t, 1)
	good := seal(t, k, "acme", 3)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for name, open := range map[string]func() (map[string][]byte, error){
		"other key":          func() (map[string][]byte, error) { return newKey(t, 2).Open("acme", 3, good) },
		"other tenant":       func() (map[string][]byte, error) { return k.Open("acme2", 3, good) },
		"older generation":   func() (map[string][]byte, error) { return k.Open("acme", 4, good) },
		"version changed":    func() (map[string][]byte, error) { return k.Open("acme", 3, flip(0)) },
		"nonce changed":      func() (map[string][]byte, error) { return k.Open("acme", 3, flip(5)) },
		"ciphertext changed": func() (map[string][]byte, error) { return k.Open("acme", 3, flip(20)) },
		"tag changed":        func() (map[string][]byte, error) { return k.Open("acme", 3, flip(len(good)-1)) },
		"cut short":          func() (map[string][]byte, error) { return k.Open("acme", 3, good[:len(good)-1]) },
		"only a version":     func() (map[string][]byte, error) { return k.Open("acme", 3, good[:1]) },
		"something appended": func() (map[string][]byte, error) { return k.Open("acme", 3, append(bytes.Clone(good), 0)) },
	} {
		got, err := open()
		if !mvm.IsKind(err, mvm.KindInternal) || got != nil {
			t.Errorf("%s: got %v, %v, want an error and nothing else", name, got, err)
			continue
		}
		if strings.Contains(err.Error(), marker) {
			t.Errorf("%s: the error holds plaintext: %v", name, err)
		}
	}
}

func TestSealRefusesBadNamesAndSizes(t *testing.T) {
	k := newKey(t, 1)
	for name, v := range map[string]map[string][]byte{
		"bad name": {"../x": []byte(marker)},
		"too big":  {"x": []byte(strings.Repeat(marker, 20_000))},
	} {
		_, err := k.Seal("acme", 1, v)
		if !mvm.IsKind(err, mvm.KindInvalid) || strings.Contains(err.Error(), marker) {
			t.Errorf("%s: got %.200v, want an error without plaintext", name, err)
		}
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	k := newKey(t, 'K')
	hidden := []string{"KKKK", "4b4b", "4B4B", "75 75", "S0tL"}
	text := fmt.Sprintf("%v %s %#v %+v %x %q %d", k, k, k, struct{ K *secrets.Key }{k}, k, k, k)
	raw, err := json.Marshal(struct{ K *secrets.Key }{k})
	if err == nil {
		t.Error("a key was marshalled")
	}
	for _, h := range hidden {
		if strings.Contains(text+string(raw), h) {
			t.Errorf("the key shows %q in %s %s", h, text, raw)
		}
	}
}

func TestScope(t *testing.T) {
	v := map[string][]byte{"A": []byte("1"), "B": []byte("2"), "C": []byte("3")}
	scope := func(s ...mvm.SecretScope) mvm.PoolSpec { return mvm.PoolSpec{SecretScopes: s} }
	for _, c := range []struct {
		name    string
		spec    mvm.PoolSpec
		want    map[string][]byte
		missing []string
	}{
		{"none: all, flat", scope(), v, nil},
		{"only the listed", scope(mvm.SecretScope{Integration: "telegram", Keys: []string{"A"}}, mvm.SecretScope{Integration: "mail", Keys: []string{"A", "B"}}),
			map[string][]byte{"telegram/A": []byte("1"), "mail/A": []byte("1"), "mail/B": []byte("2")}, nil},
		{"no keys: nothing", scope(mvm.SecretScope{Integration: "telegram"}), map[string][]byte{}, nil},
		{"missing", scope(mvm.SecretScope{Integration: "t", Keys: []string{"Z", "A", "D"}}), map[string][]byte{"t/A": []byte("1")}, []string{"t/D", "t/Z"}},
	} {
		got, missing := secrets.Scope(c.spec, v)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.missing, missing); diff != "" {
			t.Errorf("%s: missing (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestMerge(t *testing.T) {
	old := map[string][]byte{"keep": []byte("1"), "replace": []byte("2"), "remove": []byte("3")}
	got, err := secrets.Merge(old, map[string][]byte{"replace": []byte("new"), "remove": nil, "add": {}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"keep": []byte("1"), "replace": []byte("new"), "add": {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(old) != 3 || string(old["replace"]) != "2" {
		t.Error("Merge changed its argument")
	}
	if got, err := secrets.Merge(nil, nil); got == nil || err != nil {
		t.Errorf("got %v, %v, want an empty map", got, err)
	}
	if _, err := secrets.Merge(old, map[string][]byte{"none": nil}); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("got %v when a secret that is not there is removed, want that it is not found", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f, 9)
	f.Add(seal(f, newKey(f, 1), "acme", 1), "acme", 1) // right but for the key: no change of it may open
	f.Add([]byte{1}, "acme", 1)
	f.Add([]byte{}, "", 0)
	f.Fuzz(func(t *testing.T, sealed []byte, tenant string, generation int) {
		got, err := k.Open(tenant, generation, sealed)
		var known *mvm.Error
		if len(sealed) == 0 {
			return
		}
		if !errors.As(err, &known) || got != nil {
			t.Errorf("got %v, %v of bytes that nobody sealed for them", got, err)
		}
	})
}
