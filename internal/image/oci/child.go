package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image/boot"
	"mvm/internal/image/erofs"
	"mvm/internal/image/flatten"
)

// childName is argv[0] of the process that unpacks layers: this program again, without
// rights.
const childName = "mvm-flatten"

// Files of that process beside its standard input.
const (
	answerFD = 1
	spoolFD  = 3
	imageFD  = 4
)

// order is what that process is asked for, on its standard input: a length of four bytes,
// big-endian, this as JSON, and then the blobs of the layers, one after another.
type order struct {
	Layers []orderLayer
	Limits flatten.Limits
	// Folders are made in the tree where they are missing.
	Folders []orderFolder
	// Service is the definition of the image's service, which it gets unless it has some
	// itself; NoService says why an image that has none can't be used.
	Service   []byte
	NoService string
	// Added are files that it gets in place of Service.
	Added map[string]boot.Added
}

type orderLayer struct {
	Digest, DiffID string
	Size           int64
	EStargz        bool
}

type orderFolder struct {
	Path string
	Mode uint32
}

// answer is what it says on its standard output.
type answer struct {
	Kind    mvm.Kind `json:",omitempty"` // of the error; "": none
	Text    string   `json:",omitempty"`
	Fix     string   `json:",omitempty"`
	Entries int
	Bytes   int64
	LeftOut int
	// OwnServices: the image has definitions itself.
	OwnServices bool
}

const (
	maxOrder  = 1 << 20
	maxAnswer = 64 << 10
)

// ServicePath is the definition of the service that an image's configuration describes.
const ServicePath = definition.Dir + "/" + serviceName + ".json"

// RunChild does what a Builder has its process do, where this process is one, and exits.
// main calls it before anything else.
func RunChild() {
	if len(os.Args) != 1 || os.Args[0] != childName {
		return
	}
	a := answer{}
	if err := a.work(os.Stdin, os.NewFile(spoolFD, "spool"), os.NewFile(imageFD, "image")); err != nil {
		a.fail(err)
	}
	b, err := json.Marshal(a)
	if err == nil {
		_, err = os.NewFile(answerFD, "answer").Write(b)
	}
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func (a *answer) fail(err error) {
	a.Kind, a.Text = mvm.KindOf(err), err.Error()
	var e *mvm.Error
	if errors.As(err, &e) {
		a.Fix = e.Fix
		a.Text = strings.ReplaceAll(a.Text, " ("+e.Fix+")", "")
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		a.Kind, a.Fix = mvm.KindUnavailable, "free space on the disk of mvm's data"
	}
	a.Text = a.Text[:min(len(a.Text), 4096)]
}

func (a *answer) work(in io.Reader, spool, image *os.File) error {
	if err := confine(2 * maxBlob); err != nil { // contents, and the image of them
		return err
	}
	r := bufio.NewReaderSize(in, 256<<10)
	o, err := readOrder(r)
	if err != nil {
		return err
	}
	f := flatten.New(spool, o.Limits)
	for _, l := range o.Layers {
		blob := &io.LimitedReader{R: r, N: l.Size}
		if err := f.Add(context.Background(), flatten.Layer{Digest: l.Digest, DiffID: l.DiffID, EStargz: l.EStargz, Blob: blob}); err != nil {
			return err
		}
		if blob.N != 0 {
			return fmt.Errorf("a blob of %d bytes was cut off", l.Size)
		}
	}
	if err := a.complete(f, o); err != nil {
		return err
	}
	done, err := f.Finish()
	if err != nil {
		return err
	}
	a.Entries, a.Bytes, a.LeftOut = done.Entries, done.Bytes, done.LeftOut
	return erofs.Write(context.Background(), image, done.Root)
}

func readOrder(r io.Reader) (o order, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return o, fmt.Errorf("read the order: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxOrder {
		return o, fmt.Errorf("an order of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return o, fmt.Errorf("read the order: %w", err)
	}
	return o, json.Unmarshal(b, &o)
}

// complete adds what mvm-guest needs in the root filesystem.
func (a *answer) complete(f *flatten.Flattener, o order) error {
	for _, d := range o.Folders {
		if err := f.Folder(d.Path, d.Mode); err != nil {
			return err
		}
	}
	if a.OwnServices = f.Has(definition.Dir, ".json"); a.OwnServices {
		return nil
	}
	if len(o.Added) > 0 {
		for name, file := range o.Added {
			if err := put(f, name, file); err != nil {
				return err
			}
		}
		return nil
	}
	if len(o.Service) == 0 && o.NoService == "" {
		return nil
	}
	if len(o.Service) == 0 {
		return mvm.Errorf(mvm.KindInvalid, "%s", o.NoService).
			WithFix("give the image an entrypoint or a command, or service definitions in %s", definition.Dir)
	}
	return put(f, ServicePath, boot.Added{Content: o.Service})
}

// put adds a file of mvm's.
func put(f *flatten.Flattener, name string, file boot.Added) error {
	mode := uint32(unix.S_IFREG | 0o644)
	if file.Executable {
		mode |= 0o111
	}
	return f.Put(name, &erofs.Node{Mode: mode, Size: int64(len(file.Content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(file.Content)), nil
	}})
}
