// Package vmlinux takes the uncompressed kernel (an ELF file) out of a Linux
// bzImage. A VMM that is given the ELF file skips the decompression in the guest,
// which costs a second where there is no hardware virtualisation.
package vmlinux

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Bounds of what Extract takes and gives.
const (
	MaxImage  = 128 << 20 // bytes of a bzImage
	MaxKernel = 512 << 20 // bytes of the kernel in it
)

// Offsets in the setup header (Documentation/arch/x86/boot.rst of Linux).
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202
	offVersion       = 0x206
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	minVersion       = 0x208 // the first with a payload offset
	headerLen        = 0x250
	sector           = 512
	trailerLen       = 4 // the uncompressed size, put behind the compressed kernel
)

// Errors that Extract wraps.
var (
	ErrFormat      = errors.New("not a bzImage with a payload")
	ErrCompression = errors.New("compression not supported")
)

// Extract reads a bzImage and returns the ELF kernel in it. Kernels compressed
// with gzip, xz, lz4 and zstd are taken; what is an ELF file already is returned as
// it is. The input is bounded by MaxImage, the result by MaxKernel and by the size
// that the image names itself.
func Extract(r io.Reader) ([]byte, error) {
	image, err := io.ReadAll(io.LimitReader(r, MaxImage+1))
	if err != nil {
		return nil, fmt.Errorf("read kernel image: %w", err)
	}
	if len(image) > MaxImage {
		return nil, fmt.Errorf("kernel image is larger than %d bytes: %w", MaxImage, ErrFormat)
	}
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		return image, checkELF(image)
	}
	payload, size, err := findPayload(image)
	if err != nil {
		return nil, err
	}
	kernel, err := decompress(payload, size)
	if err != nil {
		return nil, fmt.Errorf("decompress kernel: %w", err)
	}
	return kernel, checkELF(kernel)
}

// findPayload returns the compressed kernel without its trailer, and the size that
// the trailer says it has uncompressed.
func findPayload(image []byte) (payload []byte, size int, err error) {
	if len(image) < headerLen || string(image[offMagic:offMagic+4]) != "HdrS" {
		return nil, 0, fmt.Errorf("no setup header: %w", ErrFormat)
	}
	le := binary.LittleEndian
	if v := le.Uint16(image[offVersion:]); v < minVersion {
		return nil, 0, fmt.Errorf("boot protocol %#x is older than %#x: %w", v, minVersion, ErrFormat)
	}
	setup := uint64(image[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*sector + uint64(le.Uint32(image[offPayloadOffset:]))
	length := uint64(le.Uint32(image[offPayloadLength:]))
	if length <= trailerLen || start+length > uint64(len(image)) {
		return nil, 0, fmt.Errorf("payload of %d bytes at %d lies outside of the %d byte file: %w", length, start, len(image), ErrFormat)
	}
	payload = image[start : start+length-trailerLen]
	want := le.Uint32(image[start+length-trailerLen:])
	if want > MaxKernel {
		return nil, 0, fmt.Errorf("kernel says that it has %d bytes, more than %d: %w", want, MaxKernel, ErrFormat)
	}
	return payload, int(want), nil
}

// decompress chooses the method by the payload's magic and reads exactly size bytes.
func decompress(payload []byte, size int) ([]byte, error) {
	r, err := newReader(payload)
	if err != nil {
		return nil, err
	}
	kernel := make([]byte, size)
	if _, err := io.ReadFull(r, kernel); err != nil {
		return nil, fmt.Errorf("kernel ends before its %d bytes: %w", size, err)
	}
	return kernel, nil
}

func newReader(payload []byte) (io.Reader, error) {
	in := bytes.NewReader(payload)
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(payload, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(in)
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return lz4.NewReader(in), nil
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxKernel))
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	return nil, fmt.Errorf("magic % x: %w", payload[:min(len(payload), 6)], ErrCompression)
}

func checkELF(kernel []byte) error {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return fmt.Errorf("kernel is no ELF file: %w", err)
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("kernel is ELF %s for %s, not an x86-64 kernel: %w", f.Type, f.Machine, ErrFormat)
	}
	return nil
}
