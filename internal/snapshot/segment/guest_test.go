package segment_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"mvm/internal/secrets"
	"mvm/internal/snapshot/segment"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// memory is the memory of a guest that stands still.
type memory []byte

func (m memory) Read(_ context.Context, pieces []segment.Piece) error {
	for _, p := range pieces {
		copy(p.Data, m[int(p.Page)*segment.Page:])
	}
	return nil
}

// write is what Inject calls, into this memory. Each page comes once, so goroutines write to
// different ones.
func (m memory) write(_ context.Context, pieces []segment.Piece) error {
	for _, p := range pieces {
		copy(m[int(p.Page)*segment.Page:], p.Data)
	}
	return nil
}

func (m memory) page(n int) []byte { return m[n*segment.Page:][:segment.Page] }

func (m memory) pages() int { return len(m) / segment.Page }

// fill writes a content to the page that its number and the seed give.
func (m memory) fill(page int, seed uint64) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", page, seed))
	for i := range segment.Page / 32 {
		copy(m.page(page)[i*32:], sum[:])
		sum[i%32]++
	}
}

// changed lists the pages that differ, as runs.
func (m memory) changed(since memory) (runs []segment.Run) {
	for n := range m.pages() {
		if !bytes.Equal(m.page(n), since.page(n)) {
			runs = mark(runs, n)
		}
	}
	return runs
}

func mark(runs []segment.Run, page int) []segment.Run {
	if n := len(runs); n > 0 && int(runs[n-1].Page+runs[n-1].Count) == page {
		runs[n-1].Count++
		return runs
	}
	return append(runs, segment.Run{Page: uint32(page), Count: 1})
}

// instance is an instance's folders, and the snapshots that it has.
type instance struct {
	t        fataler
	dir      string
	segments *sys.Folder
	key      *tenantkey.Key
	workers  int
	base     segment.Base
	zero     memory // the base's content
	made     int
	own      []*sys.Folder
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func must[T any](v T, err error) func(fataler) T {
	return func(t fataler) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t fataler) *tenantkey.Key {
	k, _ := newStoredKey(t)
	return k
}

// newStoredKey makes a tenant's key, and what is stored of it.
func newStoredKey(t fataler) (*tenantkey.Key, []byte) {
	master := must(secrets.NewKey(make([]byte, secrets.KeySize)))(t)
	k, stored, err := master.NewTenantKey("acme")
	ok(t, err)
	return k, stored
}

func openKey(t fataler, stored []byte) *tenantkey.Key {
	master := must(secrets.NewKey(make([]byte, secrets.KeySize)))(t)
	return must(master.OpenTenantKey("acme", stored))(t)
}

// newInstance makes an instance over a base; nil is memory of zeros.
func newInstance(t fataler, dir string, base memory, pages int) *instance {
	t.Helper()
	ok(t, os.Mkdir(filepath.Join(dir, "segments"), 0o700))
	return openInstance(t, dir, base, pages)
}

// openInstance is the instance that is there, with a new key.
func openInstance(t fataler, dir string, base memory, pages int) *instance {
	i := &instance{t: t, dir: dir, key: newKey(t), workers: 3, zero: make(memory, pages*segment.Page)}
	if base != nil {
		i.zero = base
		i.base = segment.Base{Digest: sha256.Sum256(base), Content: bytes.NewReader(base)}
	}
	i.segments = must(sys.OpenFolder(filepath.Join(dir, "segments")))(t)
	return i
}

func (i *instance) close() {
	for _, d := range append(i.own, i.segments) {
		ok(i.t, d.Close())
	}
}

// place makes a folder for another snapshot.
func (i *instance) place() segment.Place {
	i.t.Helper()
	i.made++
	return i.placeOf(fmt.Sprintf("s-%08x", i.made))
}

func (i *instance) placeOf(id string) segment.Place {
	i.t.Helper()
	ok(i.t, os.MkdirAll(filepath.Join(i.dir, id), 0o700))
	own := must(sys.OpenFolder(filepath.Join(i.dir, id)))(i.t)
	i.own = append(i.own, own)
	return segment.Place{ID: id, Own: own, Segments: i.segments, Key: i.key, Workers: i.workers}
}

// sleep is a sleep of the memory, from the base.
func (i *instance) sleep(m memory, prev *segment.Map) segment.Sleep {
	return segment.Sleep{Base: i.base, Memory: m, Pages: uint32(m.pages()), Changed: m.changed(i.zero), Previous: prev,
		Device: bytes.NewReader([]byte("device state"))}
}

// wake restores the snapshot over the base.
func (i *instance) wake(p segment.Place) (memory, *segment.Map, error) {
	s, err := p.Load(i.base.Digest, uint32(i.zero.pages()))
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	m := bytes.Clone(i.zero)
	if err := s.Inject(context.Background(), memory(m).write); err != nil {
		return nil, nil, err
	}
	if string(s.Device()) != "device state" {
		return nil, nil, fmt.Errorf("device state is %.100q", s.Device())
	}
	return m, s.Map(), nil
}

// wantWake fails the test unless the snapshot restores the memory.
func (i *instance) wantWake(t fataler, when string, p segment.Place, want memory) *segment.Map {
	t.Helper()
	got, m, err := i.wake(p)
	if err != nil {
		t.Fatal(when, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal(when, "restored memory differs at", memory(got).changed(want))
	}
	return m
}

// wantSegments fails the test unless the folder has the segments of the maps, of the sizes
// that they say, and nothing else.
func (i *instance) wantSegments(t fataler, when string, maps ...*segment.Map) {
	t.Helper()
	names, err := i.segments.Names()
	ok(t, err)
	want := map[string]bool{}
	for _, m := range maps {
		for _, s := range m.Segments {
			want[s.Name] = true
		}
	}
	for _, n := range names {
		if !want[n] {
			t.Fatal(when, "there is", n, "which no map names")
		}
		delete(want, n)
	}
	if len(want) > 0 {
		t.Fatal(when, "segments are missing", want)
	}
}
