package guestproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guestproto"
)

func TestFrameRoundTrip(t *testing.T) {
	for _, size := range []int{1, 7, 8 << 10, 8<<10 + 1, 100_000, guestproto.MaxFrame} {
		want := bytes.Repeat([]byte{'x'}, size)
		var buf bytes.Buffer
		if err := guestproto.WriteFrame(&buf, want); err != nil {
			t.Fatalf("WriteFrame of %d bytes: %v", size, err)
		}
		got, err := guestproto.ReadFrame(&buf)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("ReadFrame of %d bytes = %d bytes, %v", size, len(got), err)
		}
		if buf.Len() != 0 {
			t.Errorf("ReadFrame of %d bytes left %d", size, buf.Len())
		}
	}
}

func TestWriteFrameRefusesSizes(t *testing.T) {
	for _, size := range []int{0, guestproto.MaxFrame + 1} {
		var buf bytes.Buffer
		err := guestproto.WriteFrame(&buf, make([]byte, size))
		if !mvm.IsKind(err, mvm.KindInvalid) || buf.Len() != 0 {
			t.Errorf("WriteFrame of %d bytes = %v and wrote %d, want invalid and 0", size, err, buf.Len())
		}
	}
}

func head(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

func TestReadFrameRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string
		is       error
		kind     mvm.Kind
	}{
		{"nothing", "", io.EOF, mvm.KindInternal},
		{"half a length", "\x00\x00", io.ErrUnexpectedEOF, mvm.KindInternal},
		{"length without bytes", head(9), io.ErrUnexpectedEOF, mvm.KindInternal},
		{"truncated", head(9) + "12345678", io.ErrUnexpectedEOF, mvm.KindInternal},
		{"empty frame", head(0), nil, mvm.KindInvalid},
		{"one too many", head(guestproto.MaxFrame+1) + "x", nil, mvm.KindInvalid},
		{"largest length", head(1<<32 - 1), nil, mvm.KindInvalid},
	} {
		_, err := guestproto.ReadFrame(strings.NewReader(c.in))
		if err == nil || mvm.KindOf(err) != c.kind || (c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%s: ReadFrame = %v (kind %s), want %v (kind %s)", c.name, err, mvm.KindOf(err), c.is, c.kind)
		}
	}
}

// A peer that announces the largest frame and sends little must not make us
// allocate it.
func TestReadFrameAllocatesWhatArrives(t *testing.T) {
	in := head(guestproto.MaxFrame) + strings.Repeat("x", 100)
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			_, _ = guestproto.ReadFrame(strings.NewReader(in))
		}
	})
	if got := r.AllocedBytesPerOp(); got > 32<<10 {
		t.Errorf("a truncated frame costs %d bytes, want at most 32 KiB", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte(head(4) + `"Ok"`))
	f.Add([]byte(head(0)))
	f.Add([]byte(head(1 << 31)))
	f.Add([]byte(head(9) + "1234"))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := guestproto.ReadFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := guestproto.WriteFrame(&out, b); err != nil {
			t.Fatalf("WriteFrame of what ReadFrame returned: %v", err)
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("frame %x does not come back", in)
		}
	})
}
