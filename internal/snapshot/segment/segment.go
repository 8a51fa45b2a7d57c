// Package segment keeps the memory and device state of sleeping guests as sealed files, of
// which none is ever changed:
//
//	<snapshot>/map           where each page of the memory is
//	<snapshot>/device        the state of the devices
//	<segments>/seg-<random>  pages
//
// A guest's memory is a base, the same for many guests, and the pages that differ from it. A
// map lists those as extents: pages that follow each other in the memory and in a segment, or
// that are zero. All snapshots of an instance share one folder of segments, and a sleep writes
// one segment at most: with the pages that differ from the base and from the last snapshot,
// and then with those of segments of which more than half is dead, read from memory. So all
// segments of a map together have less than twice the pages that are live.
//
// Maps name segments, and a segment has one name: hard links in each snapshot's folder would
// make a rename of a packed segment (Pack) keep the old file in the other folders, count its
// bytes twice, and pass for the links that a VMM may have planted. What no map names is
// removed by Sweep.
//
// A snapshot is there when its map has its name, which comes last. Until then, and after any
// error, what was there before is whole.
//
// Who calls makes sure that for one instance one call at a time is under way; Inject may run
// beside others.
package segment

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"

	"mvm"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// Page is the size of a page.
const Page = 4096

// maxPages bounds a guest's memory: 1 TiB.
const maxPages = 1 << 28

// maxDevice bounds the state of the devices. QEMU's has less than 1 MiB.
const maxDevice = 64 << 20

// The names in a snapshot's folder, and what segments' begin with.
const (
	mapFile    = "map"
	deviceFile = "device"
	segPrefix  = "seg-"
)

// Digest names a base by its content; the zero Digest is memory of zeros.
type Digest [32]byte

// Base is the memory that a guest began with.
type Base struct {
	Digest  Digest
	Content io.ReaderAt // nil: zeros
}

// Run is pages that follow each other.
type Run struct{ Page, Count uint32 }

// Piece is pages that follow each other, and where their content is.
type Piece struct {
	Page uint32
	Data []byte // of whole pages
}

// Place is where the files of a snapshot are, and what opens them.
type Place struct {
	ID       string      // of the snapshot, which its map and device state are bound to
	Own      *sys.Folder // with its map and device state
	Segments *sys.Folder // of all snapshots of the instance
	Key      *tenantkey.Key
	Workers  int // so many goroutines at most; 0: one for each processor
	// Seam, when not nil, is called by Save before "sync", which makes the files durable, and
	// "commit", which gives the map its name. Its error fails that.
	Seam func(op string) error
}

func (p Place) seam(op string) error {
	if p.Seam == nil {
		return nil
	}
	return p.Seam(op)
}

// mapMeta is what the map of a memory of so many pages is.
func (p Place) mapMeta(pages uint32) sealed.Meta {
	return sealed.Meta{Kind: sealed.Map, Bound: p.ID + "/" + mapFile, Limit: mapLimit(pages)}
}

func (p Place) deviceMeta() sealed.Meta {
	return sealed.Meta{Kind: sealed.Device, Bound: p.ID + "/" + deviceFile, Limit: maxDevice}
}

// segMeta is what a segment is that holds pages of memory over the base.
func segMeta(base Digest, name string) sealed.Meta {
	return sealed.Meta{Kind: sealed.Segment, Bound: string(base[:]) + name, Limit: maxPages * Page}
}

// explain says what was tried. What the caller called off is KindCanceled.
func explain(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return mvm.Errorf(mvm.KindCanceled, "%s: %w", what, err)
	}
	return mvm.Explain(what, err)
}

func newSegName() string {
	b := make([]byte, 16)
	rand.Read(b)
	return segPrefix + hex.EncodeToString(b)
}
