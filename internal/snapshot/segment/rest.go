package segment

import (
	"context"
	"errors"
	"slices"
	"sort"

	"mvm"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// Pack compresses the segments of an instance whose snapshots have these maps, all that
// there are: pages that none of them needs become zero. Segments that are packed already stay.
// Each segment is replaced whole; after an error some are packed.
func (p Place) Pack(ctx context.Context, maps ...*Map) error {
	done := map[string]bool{}
	for _, m := range maps {
		for _, part := range m.Segments {
			if done[part.Name] {
				continue
			}
			done[part.Name] = true
			if err := p.packOne(ctx, m.Base, part.Name, maps); err != nil {
				return explain(ctx, "pack snapshot "+p.ID, err)
			}
		}
	}
	return nil
}

func (p Place) packOne(ctx context.Context, base Digest, name string, maps []*Map) error {
	meta := segMeta(base, name)
	f, err := sealed.Open(p.Segments, name, p.Key, meta)
	if err != nil {
		return err
	}
	codec := f.Codec()
	if err := f.Close(); err != nil || codec == sealed.Zstd {
		return err
	}
	var users []user
	for _, m := range maps {
		for i, part := range m.Segments {
			if part.Name != name {
				continue
			}
			sum, err := newSummer(m.sumKey)
			if err != nil {
				return err
			}
			users = append(users, user{m, sum, m.bySegment()[i]})
		}
	}
	return sealed.Pack(ctx, p.Segments, name, p.Key, meta, p.Workers, func(chunk int64, content []byte) error {
		return tidy(users, p.Segments.Path()+"/"+name, uint32(chunk)*chunkPages, content)
	})
}

// user is a map that has pages in a segment.
type user struct {
	m    *Map
	sum  summer
	list []located // by place
}

// tidy verifies the live pages of a chunk, which begins at the place, and clears the others.
func tidy(users []user, path string, from uint32, content []byte) error {
	pages := uint32(len(content) / Page)
	var live [chunkPages]bool
	for _, u := range users {
		a := sort.Search(len(u.list), func(n int) bool { return u.list[n].Ordinal+u.list[n].Count > from })
		for _, l := range u.list[a:] {
			if l.Ordinal >= from+pages {
				break
			}
			l = l.clip(from, from+pages)
			at := l.Ordinal - from
			if err := u.m.verify(u.sum, l, content[at*Page:][:l.Count*Page]); err != nil {
				return sealed.Bad(sealed.Damaged, path, "%w", err)
			}
			for i := range l.Count {
				live[at+i] = true
			}
		}
	}
	for i := range pages {
		if !live[i] {
			clear(content[i*Page:][:Page])
		}
	}
	return nil
}

// Rewrap has the keys of the snapshot's files, of a memory of so many pages, wrapped by
// another key of the tenant. It can run again after it was cut off; until it is through, both
// keys are needed. The segments' and the map's content stays as it is.
func (p Place) Rewrap(pages uint32, to *tenantkey.Key) error {
	from := p.Key
	m, err := p.ReadMap(pages)
	if sealed.ReasonOf(err) == sealed.OtherKey {
		p.Key = to
		m, err = p.ReadMap(pages)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, part := range m.Segments {
		errs = append(errs, sealed.Rewrap(p.Segments, part.Name, from, to, segMeta(m.Base, part.Name)))
	}
	// Of a snapshot from which a guest runs, the map alone is there.
	if err := sealed.Rewrap(p.Own, deviceFile, from, to, p.deviceMeta()); sealed.ReasonOf(err) != sealed.Missing {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return mvm.Explain("wrap the keys of snapshot "+p.ID, err)
	}
	return mvm.Explain("wrap the keys of snapshot "+p.ID, sealed.Rewrap(p.Own, mapFile, from, to, p.mapMeta(pages)))
}

// Sweep removes what is in a folder of segments and none of the maps names, and says what.
// They are the maps of all snapshots of the instance.
func Sweep(segments *sys.Folder, maps ...*Map) (removed []string, err error) {
	names, err := segments.Names()
	for _, name := range names {
		if !slices.ContainsFunc(maps, func(m *Map) bool {
			return slices.ContainsFunc(m.Segments, func(s Part) bool { return s.Name == name })
		}) {
			removed = append(removed, name)
			err = errors.Join(err, segments.RemoveAll(name))
		}
	}
	return removed, sealed.Failed("sweep", segments.Path(), err)
}
