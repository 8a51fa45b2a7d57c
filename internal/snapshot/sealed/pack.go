package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// group is how many chunks a goroutine packs at a time.
const group = 16

// Pack compresses the content of a file and seals it again, with a new key. check is asked
// about each chunk before, from many goroutines, and may change it. The file is replaced by
// rename, durable; until then, and after an error, it is as it was. What was being made has
// the name with ".new" behind, and a crash may leave it. workers is how many chunks are
// packed at a time; 0: one for each processor.
func Pack(ctx context.Context, d *sys.Folder, name string, by *tenantkey.Key, meta Meta, workers int, check func(chunk int64, content []byte) error) (err error) {
	r, err := Open(d, name, by, meta)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	tmp := name + ".new"
	w, err := Create(d, tmp, by, meta)
	if err != nil {
		return err
	}
	p := packer{r: r, w: w, check: check, at: bodyAt}
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if err := p.run(ctx, workers); err != nil {
		return errors.Join(err, w.Abort())
	}
	table := w.aead.Seal(nil, tableNonce(), p.table, []byte(meta.Bound))
	if err := w.commit(Zstd, r.Length(), table, p.at); err != nil {
		return err
	}
	if err := d.Rename(tmp, d, name); err != nil {
		return errors.Join(Failed("replace", r.Path(), err), d.Remove(tmp))
	}
	return Failed("replace", r.Path(), d.Sync())
}

// packer copies the chunks of a file to one that is compressed.
type packer struct {
	r     *File
	w     *Writer
	check func(chunk int64, content []byte) error
	at    int64  // where the next chunk goes
	table []byte // of the chunks before
}

// packed are chunks that are compressed and sealed.
type packed struct {
	buf   Buffer
	out   []byte
	table []byte
}

func (p *packer) run(ctx context.Context, workers int) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(Chunk), zstd.WithEncoderCRC(false))
	if err != nil {
		return err
	}
	round, total := make([]packed, workers), p.r.head.chunks()
	for n := int64(0); n < total; {
		g, gctx := errgroup.WithContext(ctx)
		used := 0
		for ; used < workers && n < total; used++ {
			first, count, into := n, min(group, total-n), &round[used]
			g.Go(func() error {
				if err := context.Cause(gctx); err != nil {
					return err
				}
				return p.pack(enc, first, count, into)
			})
			n += count
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i := range round[:used] {
			if err := p.write(&round[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// pack compresses and seals chunks.
func (p *packer) pack(enc *zstd.Encoder, first, count int64, into *packed) error {
	content, err := p.r.ReadChunks(first, count, nil, &into.buf)
	if err != nil {
		return err
	}
	into.out, into.table = into.out[:0], into.table[:0]
	for n := first; n < first+count; n++ {
		c := content[(n-first)*Chunk:][:p.r.head.plain(n)]
		if err := p.check(n, c); err != nil {
			return err
		}
		into.buf.packed = enc.EncodeAll(c, into.buf.packed[:0])
		stored := uint32(0)
		if len(into.buf.packed) < len(c) {
			c = into.buf.packed
		} else {
			stored = storedBit
		}
		before := len(into.out)
		into.out = p.w.aead.Seal(into.out, nonceOf(n), c, []byte(p.w.meta.Bound))
		into.table = binary.LittleEndian.AppendUint32(into.table, uint32(len(into.out)-before)|stored)
	}
	return nil
}

// write puts chunks behind those before.
func (p *packer) write(c *packed) error {
	if _, err := p.w.f.WriteAt(c.out, p.at); err != nil {
		return Failed("write", p.w.f.Name(), err)
	}
	p.at += int64(len(c.out))
	p.table = append(p.table, c.table...)
	return nil
}
