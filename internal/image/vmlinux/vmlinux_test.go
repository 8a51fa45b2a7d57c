package vmlinux_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"mvm/internal/image/vmlinux"
)

// kernel is a minimal x86-64 ELF executable with a body that compresses somewhat.
func kernel() []byte {
	k := make([]byte, 64, 300<<10)
	copy(k, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(k[16:], 2)  // ET_EXEC
	le.PutUint16(k[18:], 62) // x86-64
	le.PutUint32(k[20:], 1)
	le.PutUint16(k[52:], 64)
	for i := 0; len(k) < 300<<10; i++ {
		k = le.AppendUint32(k, uint32(i*i))
	}
	return k
}

func bzImage(payload []byte, size int) []byte {
	const setup = 3
	b := make([]byte, (setup+1)*512)
	le := binary.LittleEndian
	b[0x1f1] = setup
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint32(b[0x248:], 16)
	le.PutUint32(b[0x24c:], uint32(len(payload)+4))
	b = append(b, make([]byte, 16)...)
	b = append(b, payload...)
	b = le.AppendUint32(b, uint32(size))
	return append(b, "trailing bytes"...)
}

func compress(t *testing.T, data []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := open(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestExtractByCompression(t *testing.T) {
	methods := map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"lz4": func(w io.Writer) (io.WriteCloser, error) {
			l := lz4.NewWriter(w)
			return l, l.Apply(lz4.LegacyOption(true))
		},
	}
	want := kernel()
	for name, open := range methods {
		t.Run(name, func(t *testing.T) {
			got, err := vmlinux.Extract(bytes.NewReader(bzImage(compress(t, want, open), len(want))))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("kernel differs: got %d bytes, want %d", len(got), len(want))
			}
		})
	}
}

func TestExtractTakesELF(t *testing.T) {
	want := kernel()
	got, err := vmlinux.Extract(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(len(want), len(got)); diff != "" {
		t.Error(diff)
	}
}

func TestExtractRefuses(t *testing.T) {
	zipped := func(t *testing.T, b []byte) []byte {
		return compress(t, b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	}
	good := kernel()
	tests := map[string]struct {
		image func(t *testing.T) []byte
		want  error
	}{
		"empty":     {func(*testing.T) []byte { return nil }, vmlinux.ErrFormat},
		"no header": {func(*testing.T) []byte { return make([]byte, 4096) }, vmlinux.ErrFormat},
		"old protocol": {func(*testing.T) []byte {
			b := bzImage([]byte("x"), 1)
			b[0x206], b[0x207] = 7, 2
			return b
		}, vmlinux.ErrFormat},
		"payload outside": {func(t *testing.T) []byte { return bzImage(zipped(t, good), len(good))[:4096] }, vmlinux.ErrFormat},
		"size too large":  {func(t *testing.T) []byte { return bzImage(zipped(t, good), 1<<30) }, vmlinux.ErrFormat},
		"unknown method":  {func(*testing.T) []byte { return bzImage([]byte("BZh9123456"), 100) }, vmlinux.ErrCompression},
		"too short":       {func(t *testing.T) []byte { return bzImage(zipped(t, good), len(good)+1) }, io.ErrUnexpectedEOF},
		"not a kernel": {func(t *testing.T) []byte {
			b := bytes.Clone(good)
			b[18] = 3 // i386
			return bzImage(zipped(t, b), len(b))
		}, vmlinux.ErrFormat},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := vmlinux.Extract(bytes.NewReader(tt.image(t))); !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(bzImage([]byte{0x1f, 0x8b, 8, 0}, 100))
	f.Add(kernel()[:100])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0x250 { // keep the size that the image claims small
			for i := range len(b) - 3 {
				b[i+3] &= 0x7f
			}
		}
		_, _ = vmlinux.Extract(bytes.NewReader(b))
	})
}
