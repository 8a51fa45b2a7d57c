package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The format: the superblock at superOffset; inodes behind it, at multiples of slotSize,
// each followed by its extended attributes and, where they fit into the block, by the last
// bytes of its content; then the whole blocks of contents.
const (
	superOffset  = 1024
	superSize    = 128
	superMagic   = 0xE0F5E1E2
	slotSize     = 32
	compactSize  = 32
	extendedSize = 64
	direntSize   = 12
	xattrHeader  = 12

	featureChecksum = 1

	layoutPlain  = 0
	layoutInline = 2
)

// inode is a Node with its place in the image.
type inode struct {
	node   *Node
	path   string // the first name
	parent *inode
	number uint32
	links  uint32
	xattrs []byte // as they are in the image
	size   int64  // of the content

	at     int64  // offset of the inode
	block  uint32 // first block of the content, without the tail
	tail   int64  // bytes of the content that follow the inode
	header int    // of the inode itself
}

func (i *inode) nid() uint64     { return uint64(i.at / slotSize) }
func (i *inode) head() int64     { return int64(i.header + len(i.xattrs)) }
func (i *inode) inBlocks() int64 { return i.size - i.tail }

// plan is where everything in an image is.
type plan struct {
	inodes map[*Node]*inode
	order  []*inode
	blocks uint32
}

// place gives inodes and contents their places.
func (p *plan) place() error {
	at := int64(superOffset + superSize)
	for _, i := range p.order {
		i.measure()
		at = i.placeAt(at)
	}
	block := blocksOf(at)
	for _, i := range p.order {
		if n := blocksOf(i.inBlocks()); n > 0 {
			i.block = uint32(block)
			block += n
		}
	}
	if block >= math.MaxUint32 {
		return fmt.Errorf("the tree needs %d blocks, more than an image can have", block)
	}
	p.blocks = uint32(block)
	return nil
}

// measure says how large inode and content are.
func (i *inode) measure() {
	n := i.node
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		i.size = i.direntBytes()
	case unix.S_IFLNK:
		i.size = int64(len(n.Target))
	default:
		i.size = n.Size
	}
	i.header = extendedSize
	if n.UID <= math.MaxUint16 && n.GID <= math.MaxUint16 && i.links <= math.MaxUint16 && i.size <= math.MaxUint32 && n.Mtime == 0 && n.MtimeNsec == 0 {
		i.header = compactSize
	}
}

// placeAt gives the inode the first place from at on where neither it nor its tail crosses
// the end of a block, and returns where the next one may begin. The tail goes into a block
// of its own where that wastes less.
func (i *inode) placeAt(at int64) int64 {
	left := BlockSize - at%BlockSize
	if left < int64(i.header) {
		at, left = at+left, BlockSize
	}
	tail := i.size % BlockSize
	end := (at + i.head()) % BlockSize
	switch {
	case tail == 0:
	case end+tail <= BlockSize:
		i.tail = tail
	case i.head()+tail <= BlockSize && left < BlockSize-tail:
		at += left
		i.tail = tail
	}
	i.at = at
	return roundUp(at+i.head()+i.tail, slotSize)
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func blocksOf(n int64) int64 { return roundUp(n, BlockSize) / BlockSize }

// names are the sorted entries of a folder.
func (i *inode) names() []string {
	names := append(slices.Collect(maps.Keys(i.node.Children)), ".", "..")
	slices.Sort(names)
	return names
}

// pages splits the sorted names into what fits into a block each.
func pages(names []string) [][]string {
	var all [][]string
	from, used := 0, 0
	for n, name := range names {
		need := direntSize + len(name)
		if used+need > BlockSize {
			all = append(all, names[from:n])
			from, used = n, 0
		}
		used += need
	}
	return append(all, names[from:])
}

func (i *inode) direntBytes() int64 {
	all := pages(i.names())
	last := 0
	for _, name := range all[len(all)-1] {
		last += direntSize + len(name)
	}
	return int64(len(all)-1)*BlockSize + int64(last)
}

// fileTypes are the types of folder entries by that of the mode.
var fileTypes = map[uint32]byte{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFLNK: 7}

// dirents are the content of a folder.
func (p *plan) dirents(i *inode) []byte {
	b := make([]byte, i.size)
	for n, names := range pages(i.names()) {
		page := b[n*BlockSize:]
		at := direntSize * len(names)
		for k, name := range names {
			child := p.child(i, name)
			e := page[k*direntSize:]
			binary.LittleEndian.PutUint64(e, child.nid())
			binary.LittleEndian.PutUint16(e[8:], uint16(at))
			e[10] = fileTypes[child.node.Mode&unix.S_IFMT]
			at += copy(page[at:], name)
		}
	}
	return b
}

func (p *plan) child(i *inode, name string) *inode {
	switch name {
	case ".":
		return i
	case "..":
		return i.parent
	}
	return p.inodes[i.node.Children[name]]
}

// encode is the inode as it is in the image, with its attributes.
func (i *inode) encode() []byte {
	n, le := i.node, binary.LittleEndian
	layout := uint16(layoutPlain)
	if i.tail > 0 {
		layout = layoutInline
	}
	var count uint16
	if len(i.xattrs) > 0 {
		count = uint16((len(i.xattrs)-xattrHeader)/4 + 1)
	}
	b := make([]byte, i.header, i.header+len(i.xattrs))
	le.PutUint16(b, layout<<1)
	le.PutUint16(b[2:], count)
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint32(b[16:], i.block)
	le.PutUint32(b[20:], i.number)
	if i.header == compactSize {
		le.PutUint16(b[6:], uint16(i.links))
		le.PutUint32(b[8:], uint32(i.size))
		le.PutUint16(b[24:], uint16(n.UID))
		le.PutUint16(b[26:], uint16(n.GID))
		return append(b, i.xattrs...)
	}
	b[0] |= 1
	le.PutUint64(b[8:], uint64(i.size))
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Mtime))
	le.PutUint32(b[40:], n.MtimeNsec)
	le.PutUint32(b[44:], i.links)
	return append(b, i.xattrs...)
}

// super is the superblock without its checksum, which seal adds.
func (p *plan) super() []byte {
	b, le := make([]byte, superSize), binary.LittleEndian
	le.PutUint32(b, superMagic)
	b[12] = 12 // a block has 2 to the power of this many bytes
	le.PutUint16(b[14:], uint16(p.order[0].nid()))
	le.PutUint64(b[16:], uint64(len(p.order)))
	le.PutUint32(b[36:], p.blocks)
	return b
}

// seal makes the superblock say that it has a checksum of the first block, and adds it.
func seal(first []byte) {
	le := binary.LittleEndian
	le.PutUint32(first[superOffset+8:], featureChecksum)
	le.PutUint32(first[superOffset+4:], 0)
	sum := crc32.Checksum(first[superOffset:], crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(first[superOffset+4:], ^sum)
}

// xattrPrefixes are the prefixes that have a number in the format.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{{"user.", 1}, {"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"trusted.", 4}, {"security.", 6}}

// encodeXattrs are the attributes as they follow an inode.
func encodeXattrs(all map[string]string) ([]byte, error) {
	if len(all) == 0 {
		return nil, nil
	}
	b := make([]byte, xattrHeader)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		index, rest, err := splitXattr(name)
		if err != nil {
			return nil, err
		}
		value := all[name]
		if len(value) > MaxXattrValue {
			return nil, fmt.Errorf("attribute %s has %d bytes, more than %d", name, len(value), MaxXattrValue)
		}
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, rest...), value...)
		b = append(b, make([]byte, int(roundUp(int64(len(b)), 4))-len(b))...)
		if len(b) > maxXattrs {
			return nil, fmt.Errorf("the attributes have more than %d bytes", maxXattrs)
		}
	}
	return b, nil
}

func splitXattr(name string) (index byte, rest string, err error) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if whole := !strings.HasSuffix(p.prefix, "."); !ok || whole == (rest != "") || len(rest) > MaxName || strings.Contains(rest, "\x00") {
			continue
		}
		return p.index, rest, nil
	}
	return 0, "", fmt.Errorf("%.300q is no attribute that an image can hold", name)
}
