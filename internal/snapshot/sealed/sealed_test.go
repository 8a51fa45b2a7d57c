package sealed_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/secrets"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *tenantkey.Key {
	t.Helper()
	master, err := secrets.NewKey(make([]byte, tenantkey.Size))
	ok(t, err)
	k, _, err := master.NewTenantKey("acme")
	ok(t, err)
	return k
}

func folder(t testing.TB) *sys.Folder {
	t.Helper()
	d, err := sys.OpenFolder(t.TempDir())
	ok(t, err)
	t.Cleanup(func() { ok(t, d.Close()) })
	return d
}

var meta = sealed.Meta{Kind: sealed.Segment, Bound: "seg-1", Limit: 8 << 20}

func write(t testing.TB, d *sys.Folder, key *tenantkey.Key, content []byte) {
	t.Helper()
	w, err := sealed.Create(d, "f", key, meta)
	ok(t, err)
	n, err := w.Fill(bytes.NewReader(content))
	ok(t, err)
	ok(t, w.Commit(n))
}

// mixed is content of the length, of which some chunks compress and some do not.
func mixed(n int) []byte {
	rng, b := rand.New(rand.NewPCG(1, 1)), make([]byte, n)
	for i := range b {
		if i/sealed.Chunk%2 == 0 {
			b[i] = byte(rng.Uint32())
		}
	}
	return b
}

// TestContentComesBack: whatever its length, content is read as it was written, whole and by
// chunks, raw and packed, and packing it makes it no longer than its parts.
func TestContentComesBack(t *testing.T) {
	key := newKey(t)
	for _, n := range []int{0, 1, 15, 16, 4096, sealed.Chunk - 1, sealed.Chunk, sealed.Chunk + 1, 20*sealed.Chunk - 7, 40 * sealed.Chunk} {
		d, content := folder(t), mixed(n)
		write(t, d, key, content)
		for _, packed := range []bool{false, true} {
			if packed {
				ok(t, sealed.Pack(t.Context(), d, "f", key, meta, 3, func(int64, []byte) error { return nil }))
			}
			if got, err := sealed.Read(d, "f", key, meta); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes, packed %v: read %d, %v", n, packed, len(got), err)
			}
			f, err := sealed.Open(d, "f", key, meta)
			ok(t, err)
			var b sealed.Buffer
			for c := int64(0); c*sealed.Chunk < int64(n); c += 3 {
				count := min(3, (int64(n)+sealed.Chunk-1)/sealed.Chunk-c)
				got, err := f.ReadChunks(c, count, func(k int64) bool { return k != c+1 }, &b)
				ok(t, err)
				want := content[c*sealed.Chunk : min(int64(n), (c+count)*sealed.Chunk)]
				if len(got) != len(want) || !bytes.Equal(got[:min(len(got), sealed.Chunk)], want[:min(len(want), sealed.Chunk)]) ||
					count == 3 && !bytes.Equal(got[2*sealed.Chunk:], want[2*sealed.Chunk:]) {
					t.Fatalf("%d bytes, packed %v: chunks from %d differ", n, packed, c)
				}
			}
			if _, err := f.ReadChunks(0, int64(n)/sealed.Chunk+2, nil, &b); sealed.ReasonOf(err) != sealed.Damaged {
				t.Errorf("chunks beyond the end: %v", err)
			}
			ok(t, f.Close())
		}
		if st, err := os.Stat(d.Path() + "/f"); err != nil || n == 40*sealed.Chunk && st.Size() > int64(n)*6/10 {
			t.Errorf("%d bytes, half of them zeros, are packed into %d, %v", n, st.Size(), err)
		}
	}
}

// TestTornHead: a head that a crash left half written is no loss, and Rewrap mends it.
func TestTornHead(t *testing.T) {
	from, to := newKey(t), newKey(t)
	for slot := range 2 {
		d, content := folder(t), mixed(100_000)
		write(t, d, from, content)
		path := d.Path() + "/f"
		b, err := os.ReadFile(path)
		ok(t, err)
		copy(b[slot*4096+20:], bytes.Repeat([]byte{0xa5}, 76))
		ok(t, os.WriteFile(path, b, 0o600))
		if got, err := sealed.Read(d, "f", from, meta); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("head %d torn: %v", slot, err)
		}
		ok(t, sealed.Rewrap(d, "f", from, to, meta))
		if _, err := sealed.Read(d, "f", from, meta); sealed.ReasonOf(err) != sealed.OtherKey {
			t.Errorf("with the key from before: %v", err)
		}
		b, err = os.ReadFile(path)
		ok(t, err)
		for other := range 2 { // each of the heads is whole again
			c := bytes.Clone(b)
			clear(c[other*4096 : other*4096+96])
			ok(t, os.WriteFile(path, c, 0o600))
			if got, err := sealed.Read(d, "f", to, meta); err != nil || !bytes.Equal(got, content) {
				t.Errorf("without head %d: %v", other, err)
			}
		}
	}
}

// TestRewrapLeavesTheContent: only the heads change, however large the file is, and a file
// that neither key opens is left as it is.
func TestRewrapLeavesTheContent(t *testing.T) {
	from, to, d := newKey(t), newKey(t), folder(t)
	write(t, d, from, mixed(3<<20))
	path := d.Path() + "/f"
	before, err := os.ReadFile(path)
	ok(t, err)
	if err := sealed.Rewrap(d, "f", newKey(t), to, meta); sealed.ReasonOf(err) != sealed.OtherKey {
		t.Errorf("from another key: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, before) {
		t.Error("a rewrap that was refused changed the file")
	}
	ok(t, sealed.Rewrap(d, "f", from, to, meta))
	after, err := os.ReadFile(path)
	ok(t, err)
	if !bytes.Equal(after[8192:], before[8192:]) || bytes.Equal(after[:8192], before[:8192]) {
		t.Error("a rewrap changed the content, or not the heads")
	}
}

// TestBounds: a file of another kind, longer than its reader expects, bound to something else,
// or that is not there is refused, and so is content that is longer than it may be.
func TestBounds(t *testing.T) {
	key, d := newKey(t), folder(t)
	write(t, d, key, mixed(70_000))
	for name, c := range map[string]struct {
		file string
		meta sealed.Meta
		want sealed.Reason
	}{
		"as it is":     {"f", meta, ""},
		"another kind": {"f", sealed.Meta{Kind: sealed.Map, Bound: meta.Bound, Limit: meta.Limit}, sealed.Damaged},
		"longer":       {"f", sealed.Meta{Kind: meta.Kind, Bound: meta.Bound, Limit: 69_999}, sealed.Damaged},
		"another's":    {"f", sealed.Meta{Kind: meta.Kind, Bound: "seg-2", Limit: meta.Limit}, sealed.Damaged},
		"not there":    {"g", meta, sealed.Missing},
	} {
		_, err := sealed.Read(d, c.file, key, c.meta)
		if sealed.ReasonOf(err) != c.want || (err == nil) != (c.want == "") || errors.Is(err, fs.ErrNotExist) != (c.want == sealed.Missing) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	w, err := sealed.Create(d, "long", key, sealed.Meta{Kind: sealed.Device, Bound: "x", Limit: 65_536})
	ok(t, err)
	if _, err := w.Fill(bytes.NewReader(mixed(70_000))); !mvm.IsKind(err, mvm.KindInternal) || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Errorf("content beyond the limit: %v", err)
	}
	ok(t, w.Abort())
	if names, err := d.Names(); err != nil || len(names) != 1 {
		t.Errorf("there is %v, %v", names, err)
	}
}

// TestEqualContentLooksDifferent: files of equal content have nothing in common, nor has a file
// that is written again.
func TestEqualContentLooksDifferent(t *testing.T) {
	key, content := newKey(t), bytes.Repeat([]byte("0123456789abcdef"), 16_384)
	seen := map[string]bool{}
	for range 3 {
		d := folder(t)
		write(t, d, key, content)
		b, err := os.ReadFile(d.Path() + "/f")
		ok(t, err)
		for at := 8192; at+16 <= len(b); at += 16 {
			if seen[string(b[at:at+16])] {
				t.Fatal("two blocks are equal")
			}
			seen[string(b[at:at+16])] = true
		}
	}
}
