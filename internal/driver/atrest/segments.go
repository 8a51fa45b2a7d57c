package atrest

import (
	"context"
	"errors"

	"mvm/internal/snapshot"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/sys"
)

// Segments knows what is in the files of snapshots.
type Segments struct{}

// Sweep is described at snapshot.Segments.
func (Segments) Sweep(segments *sys.Folder, each func(fn func(snapshot.Sealed) error) error) error {
	var maps []*segment.Map
	err := each(func(s snapshot.Sealed) error {
		m, err := place(s).ReadMap(0)
		if sealed.ReasonOf(err) == sealed.Missing {
			return nil
		}
		maps = append(maps, m)
		return err
	})
	if sealed.ReasonOf(err) != "" {
		return nil //nolint:nilerr // the map that can't be read may name any of them
	}
	if err != nil {
		return err
	}
	_, err = segment.Sweep(segments, maps...)
	return err
}

// Rewrap is described at snapshot.Segments.
func (Segments) Rewrap(s snapshot.Sealed) error {
	err := place(s).Rewrap(0, s.Key)
	if sealed.ReasonOf(err) != "" {
		return nil //nolint:nilerr // it is damaged
	}
	return err
}

// Needs is described at snapshot.Segments.
func (Segments) Needs(s snapshot.Sealed) ([]string, error) {
	m, err := place(s).ReadMap(0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, part := range m.Segments {
		names = append(names, part.Name)
	}
	return names, place(s).Check(m)
}

// Read is described at snapshot.Segments.
func (Segments) Read(ctx context.Context, s snapshot.Sealed) (err error) {
	opened, err := place(s).Load(segment.Digest{}, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return opened.Inject(ctx, func(context.Context, []segment.Piece) error { return nil })
}

func place(s snapshot.Sealed) segment.Place {
	return segment.Place{ID: s.ID, Own: s.Own, Segments: s.Segments, Key: s.Key}
}
