// Package ext4 reads small files out of an ext4 file system without mounting it.
//
// The file system is not trusted: everything is bounded, and what this package does not know
// is an error. It knows what mkfs.ext4 makes by default, with extents, and follows no link.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what is read.
const (
	maxDir     = 1 << 20 // bytes of a folder
	maxExtents = 1000    // of a file or folder
	maxDepth   = 5       // of their tree
)

// ErrNotThere says that there is no such file or folder.
var ErrNotThere = errors.New("it is not there")

// Features of a file system that change how it is read; others of the incompatible ones are
// refused, a journal that has to be replayed among them.
const (
	featFileType = 0x2
	featExtents  = 0x40
	feat64Bit    = 0x80
	featFlexBG   = 0x200
	featCsumSeed = 0x2000
	featLargeDir = 0x4000
	known        = featFileType | featExtents | feat64Bit | featFlexBG | featCsumSeed | featLargeDir
)

const (
	superblock = 1024
	magic      = 0xef53
	rootInode  = 2

	modeType = 0xf000
	modeDir  = 0x4000
	modeFile = 0x8000

	usesExtents = 0x80000
	extentMagic = 0xf30a
)

// FS is an open file system. It is safe for concurrent use if its reader is.
type FS struct {
	r         io.ReaderAt
	block     int64 // bytes
	first     int64 // block of the superblock
	perGroup  uint32
	inodes    uint32
	inodeSize int64
	descSize  int64
}

// Open reads the superblock.
func Open(r io.ReaderAt) (*FS, error) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, superblock); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(b[56:]) != magic {
		return nil, errors.New("it is no ext4")
	}
	incompat := le.Uint32(b[96:])
	if other := incompat &^ known; other != 0 {
		return nil, fmt.Errorf("it has features %#x", other)
	}
	f := &FS{r: r, first: int64(le.Uint32(b[20:])), inodes: le.Uint32(b[0:]), perGroup: le.Uint32(b[40:]), inodeSize: 128, descSize: 32}
	if shift := le.Uint32(b[24:]); shift <= 6 {
		f.block = 1024 << shift
	}
	if le.Uint32(b[76:]) > 0 {
		f.inodeSize = int64(le.Uint16(b[88:]))
	}
	if incompat&feat64Bit != 0 {
		f.descSize = int64(le.Uint16(b[254:]))
	}
	if f.block == 0 || f.perGroup == 0 || f.inodeSize < 128 || f.inodeSize > f.block || f.descSize < 32 || f.descSize > 1024 {
		return nil, errors.New("its superblock makes no sense")
	}
	return f, nil
}

// inode is a file or folder.
type inode struct {
	mode  uint16
	flags uint32
	size  int64
	data  [60]byte // the root of its extents
}

func (f *FS) inode(n uint32) (i inode, err error) {
	if n == 0 || n > f.inodes {
		return i, fmt.Errorf("there is no inode %d", n)
	}
	le := binary.LittleEndian
	group, index := int64((n-1)/f.perGroup), int64((n-1)%f.perGroup)
	desc := make([]byte, f.descSize)
	if _, err := f.r.ReadAt(desc, (f.first+1)*f.block+group*f.descSize); err != nil {
		return i, fmt.Errorf("read group %d: %w", group, err)
	}
	table := int64(le.Uint32(desc[8:]))
	if f.descSize >= 64 {
		table |= int64(le.Uint32(desc[40:])&0xffff) << 32
	}
	b := make([]byte, 128)
	if _, err := f.r.ReadAt(b, table*f.block+index*f.inodeSize); err != nil {
		return i, fmt.Errorf("read inode %d: %w", n, err)
	}
	i = inode{mode: le.Uint16(b), flags: le.Uint32(b[32:]), size: int64(le.Uint32(b[4:])) | int64(le.Uint32(b[108:])&0x7fff)<<32}
	copy(i.data[:], b[40:100])
	return i, nil
}

// content reads the first bytes of an inode, at most so many.
func (f *FS) content(i inode, most int64) ([]byte, error) {
	if i.flags&usesExtents == 0 {
		return nil, errors.New("it has no extents")
	}
	out := make([]byte, min(i.size, most))
	left := maxExtents
	return out, f.extents(i.data[:], out, maxDepth, &left)
}

// extents fills out from a node of the tree; what has no extent stays zero.
func (f *FS) extents(node, out []byte, depth int, left *int) error {
	le := binary.LittleEndian
	n := int(le.Uint16(node[2:]))
	if le.Uint16(node) != extentMagic || 12+12*n > len(node) || int(le.Uint16(node[6:])) > depth {
		return errors.New("its extents make no sense")
	}
	leaf := le.Uint16(node[6:]) == 0
	for e := node[12 : 12+12*n]; len(e) > 0; e = e[12:] {
		if *left--; *left < 0 {
			return fmt.Errorf("it has more than %d extents", maxExtents)
		}
		from := int64(le.Uint32(e)) * f.block // in the file
		if from >= int64(len(out)) {
			continue
		}
		if !leaf {
			next := make([]byte, f.block)
			at := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
			if _, err := f.r.ReadAt(next, at*f.block); err != nil {
				return fmt.Errorf("read extents: %w", err)
			}
			if err := f.extents(next, out, depth-1, left); err != nil {
				return err
			}
			continue
		}
		blocks := int64(le.Uint16(e[4:]))
		if blocks > 32768 {
			continue // not written
		}
		at := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
		part := out[from:min(int64(len(out)), from+blocks*f.block)]
		if _, err := f.r.ReadAt(part, at*f.block); err != nil {
			return fmt.Errorf("read data: %w", err)
		}
	}
	return nil
}

// Files reads the files of a folder whose names keep wants, at most so many of them, and of
// each at most so many bytes. A name that leads to something else than a file is an error.
func (f *FS) Files(dir string, keep func(name string) bool, most int, bytes int64) (map[string][]byte, error) {
	at := uint32(rootInode)
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		names, err := f.names(at)
		if err != nil {
			return nil, fmt.Errorf("read folder %s: %w", dir, err)
		}
		if at = names[name]; at == 0 {
			return nil, fmt.Errorf("read folder %s: %w", dir, ErrNotThere)
		}
	}
	names, err := f.names(at)
	if err != nil {
		return nil, fmt.Errorf("read folder %s: %w", dir, err)
	}
	out := map[string][]byte{}
	for name, n := range names {
		if !keep(name) || len(out) == most {
			continue
		}
		i, err := f.inode(n)
		if err == nil && i.mode&modeType != modeFile {
			err = errors.New("it is no file")
		}
		if err == nil {
			out[name], err = f.content(i, bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", dir, name, err)
		}
	}
	return out, nil
}

// names are the entries of a folder.
func (f *FS) names(n uint32) (map[string]uint32, error) {
	i, err := f.inode(n)
	if err == nil && i.mode&modeType != modeDir {
		err = errors.New("it is no folder")
	}
	if err == nil && i.size > maxDir {
		err = fmt.Errorf("it has more than %d bytes", maxDir)
	}
	if err != nil {
		return nil, err
	}
	b, err := f.content(i, maxDir)
	if err != nil {
		return nil, err
	}
	out := map[string]uint32{}
	for len(b) >= 8 {
		node, size, length := binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint16(b[4:])), int(b[6])
		if size < 8 || size > len(b) || 8+length > size {
			return nil, errors.New("its entries make no sense")
		}
		if node != 0 {
			out[string(b[8:8+length])] = node
		}
		b = b[size:]
	}
	return out, nil
}
