package segment

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"runtime"

	"golang.org/x/sync/errgroup"

	"mvm"
	"mvm/internal/snapshot/sealed"
)

// Memory is the memory of a guest that stands still.
type Memory interface {
	// Read fills the pieces. It is called from many goroutines.
	Read(ctx context.Context, pieces []Piece) error
}

// Since says what pages are like that Sleep.Changed does not list.
type Since int

// What unlisted pages are equal to.
const (
	SinceBase     Since = iota // the base: the last snapshot was injected over it, so its pages are listed
	SincePrevious              // the previous snapshot: a full file of it was mapped
)

// Sleep is what a snapshot is made of.
type Sleep struct {
	Base     Base
	Memory   Memory
	Pages    uint32 // of the memory
	Changed  []Run  // which pages may differ, sorted
	Since    Since
	Previous *Map      // of the snapshot that the guest was restored from; nil: none
	Device   io.Reader // the state of the devices; it must end also where Memory fails
}

// Saved is what a sleep has written.
type Saved struct {
	Map     *Map
	Segment string // that it made; "": none
	// Pages that were listed or in the previous snapshot, by what became of them: written
	// anew, written again to free their segment, left where they were, zero, and equal to
	// the base.
	Written, Moved, Kept, Zero, Dropped int
}

// Save makes the snapshot, durable. It reads the memory once. After an error, and after a
// crash and a Sweep, all is as it was before. Faults of the host, such as a full disk, say what
// to do.
func (p Place) Save(ctx context.Context, s Sleep) (saved Saved, err error) {
	v, err := p.newSaver(s)
	if err != nil {
		return Saved{}, err
	}
	defer func() {
		if err != nil {
			saved, err = Saved{}, errors.Join(explain(ctx, "save snapshot "+p.ID, err), v.undo())
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(v.device)
	g.Go(func() error { return v.memory(gctx) })
	if err := g.Wait(); err != nil {
		return Saved{}, err
	}
	if err := v.table(); err != nil {
		return Saved{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Saved{}, err
	}
	return v.out, v.commit()
}

// The names of what is in a snapshot's folder, for those who move or measure it.
const (
	MapFile    = mapFile
	DeviceFile = deviceFile
)

// newMap is the name of a map until all that it names is durable.
const newMap = mapFile + ".new"

// file is a file that is being made.
type file struct {
	w      *sealed.Writer
	length int64
}

// device writes the state of the devices.
func (v *saver) device() (err error) {
	f := file{}
	if f.w, err = sealed.Create(v.p.Own, deviceFile, v.p.Key, v.p.deviceMeta()); err != nil {
		return err
	}
	digest := sha256.New()
	f.length, err = f.w.Fill(io.TeeReader(v.Device, digest))
	v.state, v.out.Map.Device = f, [32]byte(digest.Sum(nil))
	return err
}

// table writes the map.
func (v *saver) table() (err error) {
	f, b := file{}, v.out.Map.encode()
	if f.w, err = sealed.Create(v.p.Own, newMap, v.p.Key, v.p.mapMeta(v.Pages)); err != nil {
		return err
	}
	f.length, err = f.w.Fill(bytes.NewReader(b))
	v.list = f
	return err
}

// commit makes all files durable, beside each other, so that the file system has one
// transaction for all, and then gives the map its name.
func (v *saver) commit() error {
	if err := v.p.seam("sync"); err != nil {
		return err
	}
	var g errgroup.Group
	for _, f := range []*file{&v.state, &v.pages, &v.list} {
		if w := f.w; w != nil {
			f.w = nil
			g.Go(func() error { return w.Commit(f.length) })
		}
	}
	g.Go(v.p.Segments.Sync)
	err := g.Wait()
	if err == nil {
		err = v.p.seam("commit")
	}
	if err == nil {
		err = v.p.Own.Rename(newMap, v.p.Own, mapFile)
	}
	if err == nil {
		err = v.p.Own.Sync()
	}
	return sealed.Failed("commit", v.p.Own.Path(), err)
}

// saver makes one snapshot.
type saver struct {
	Sleep
	p     Place
	sum   summer
	prev  []located // of the previous map, by page
	dirty *sweepOf  // the listed pages
	moved *sweepOf  // pages of segments that are freed

	state file // of the devices
	pages file // the new segment, once there is a page for it
	list  file // the map
	out   Saved
}

func (p Place) newSaver(s Sleep) (*saver, error) {
	if s.Previous == nil {
		s.Previous = &Map{Base: s.Base.Digest, Pages: s.Pages}
		rand.Read(s.Previous.sumKey[:])
	}
	end := uint64(0)
	for _, r := range s.Changed {
		if r.Count == 0 || uint64(r.Page) < end {
			return nil, mvm.Errorf(mvm.KindInternal, "save snapshot %s: the changed pages are not sorted at page %d", p.ID, r.Page)
		}
		end = uint64(r.Page) + uint64(r.Count)
	}
	switch _, _, err := p.Own.Size(mapFile); {
	case err == nil:
		return nil, mvm.Errorf(mvm.KindInternal, "save snapshot %s: it is there", p.ID)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, sealed.Failed("save", p.Own.Path(), err)
	case end > uint64(s.Pages) || s.Pages > maxPages:
		return nil, mvm.Errorf(mvm.KindInternal, "save snapshot %s: page %d is changed, and the memory has %d", p.ID, end, s.Pages)
	case s.Previous.Base != s.Base.Digest || s.Previous.Pages != s.Pages:
		return nil, mvm.Errorf(mvm.KindInternal, "save snapshot %s: the one before has another base or size", p.ID)
	}
	sum, err := newSummer(s.Previous.sumKey)
	if err != nil {
		return nil, err
	}
	if p.Workers <= 0 {
		p.Workers = runtime.GOMAXPROCS(0)
	}
	v := &saver{Sleep: s, p: p, sum: sum, prev: s.Previous.located()}
	v.out.Map = &Map{Base: s.Base.Digest, Pages: s.Pages, sumKey: s.Previous.sumKey}
	return v, nil
}

// undo removes what was made.
func (v *saver) undo() error {
	errs := []error{v.p.Own.Remove(mapFile), v.p.Own.Remove(newMap), v.p.Own.Remove(deviceFile)}
	for _, f := range []file{v.state, v.pages, v.list} {
		if f.w != nil {
			errs = append(errs, f.w.Abort())
		}
	}
	if v.out.Segment != "" {
		errs = append(errs, v.p.Segments.Remove(v.out.Segment))
	}
	return errors.Join(errs...)
}

// memory writes the segment and makes the map.
func (v *saver) memory(ctx context.Context) error {
	v.dirty = newSweepOf(v.Changed, false)
	at, err := v.stream(ctx, v.dirty, handoff{})
	if err != nil {
		return err
	}
	free := v.freed()
	v.moved = newSweepOf(v.pagesOf(free), true)
	if at, err = v.stream(ctx, v.moved, at); err != nil {
		return err
	}
	if err := v.finish(at); err != nil {
		return err
	}
	v.build(free)
	return nil
}

// finish writes the last chunk.
func (v *saver) finish(at handoff) error {
	length := at.chunk*sealed.Chunk + int64(len(at.carry))
	if length == 0 {
		return nil
	}
	if err := v.begin(); err != nil {
		return err
	}
	v.pages.length = length
	if len(at.carry) == 0 {
		return nil
	}
	_, err := v.pages.w.WriteChunks(at.chunk, at.carry, nil)
	return err
}

// begin makes the segment, unless it is there. One goroutine at a time calls it.
func (v *saver) begin() (err error) {
	if v.pages.w == nil {
		name := newSegName()
		v.pages.w, err = sealed.Create(v.p.Segments, name, v.p.Key, segMeta(v.Base.Digest, name))
		v.out.Segment = name
	}
	return err
}
