package oci

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
)

// nobody is the user that the process without rights runs as, where this one may choose.
const nobody = 65534

// unpack streams the layers to a process without rights, which writes the root
// filesystem to the file at the path.
func unpack(ctx context.Context, src source, p *pulled, o order, to string, progress func(mvm.Progress)) (a answer, err error) {
	image, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	spool, err := unnamed(filepath.Dir(to))
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	for _, l := range p.layers {
		d := ""
		if l.Digest.Hex != "" {
			d = l.Digest.String()
		}
		o.Layers = append(o.Layers, orderLayer{Digest: d, DiffID: l.DiffID, Size: l.Size, EStargz: l.isEStargz()})
	}
	c, err := startChild(ctx, spool, image)
	if err != nil {
		return a, err
	}
	sent := c.send(ctx, src, p, o, progress)
	a, err = c.wait()
	if ctx.Err() != nil {
		return a, context.Cause(ctx)
	}
	if err == nil || sent != nil && !errors.Is(sent, unix.EPIPE) {
		err = sent // it ended because not all was sent
	}
	return a, err
}

// unnamed makes a file in the folder that is gone when it is closed.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// child is the process that unpacks.
type child struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err output
}

// output keeps the first bytes of what a process writes, and discards the rest.
type output struct{ bytes.Buffer }

func (o *output) Write(p []byte) (int, error) {
	o.Buffer.Write(p[:min(len(p), maxAnswer-o.Len())])
	return len(p), nil
}

func startChild(ctx context.Context, spool, image *os.File) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, "/proc/self/exe")}
	c.cmd.Args = []string{childName}
	c.cmd.Dir, c.cmd.Env, c.cmd.WaitDelay = "/", []string{"GOTRACEBACK=none"}, 5*time.Second
	c.cmd.ExtraFiles = []*os.File{spool, image}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		c.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close inherited files: %w", err)
	}
	c.in = in
	if err := c.cmd.Start(); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the process that unpacks layers: %w", err)
	}
	return c, nil
}

// send writes the order and the blobs. The process may end before it has read all.
func (c *child) send(ctx context.Context, src source, p *pulled, o order, progress func(mvm.Progress)) (err error) {
	defer func() { err = errors.Join(err, c.in.Close()) }()
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if len(b) > maxOrder {
		return invalid("the description of the image has %d bytes, more than %d", len(b), maxOrder)
	}
	if _, err := c.in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return err
	}
	for n, l := range p.layers {
		progress(mvm.Progress{Text: fmt.Sprintf("reading layer %d of %d, %d MiB", n+1, len(p.layers), (l.Size+1<<20-1)>>20), Done: int64(n), Total: int64(len(p.layers))})
		if err := c.sendBlob(ctx, src, l); err != nil {
			return fmt.Errorf("layer %d (%.19s): %w", n+1, l.DiffID, err)
		}
	}
	return nil
}

func (c *child) sendBlob(ctx context.Context, src source, l layer) (err error) {
	r, err := src.blob(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	n, err := io.Copy(c.in, io.LimitReader(r, l.Size))
	if err != nil {
		return err
	}
	if n < l.Size {
		return invalid("its blob has %d bytes, the manifest says %d", n, l.Size)
	}
	// Its reader may compare the digest only when it finds the end.
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, invalid("its blob has more than the %d bytes that the manifest says", l.Size))
	}
	return nil
}

// wait returns what the process answers when it has ended.
func (c *child) wait() (a answer, err error) {
	err = c.cmd.Wait()
	if err != nil {
		return a, mvm.Errorf(mvm.KindInvalid, "the process that unpacks layers ended: %w: %.300q", err, c.err.String()).
			WithFix("the image may need more memory or time than an image is given")
	}
	d := json.NewDecoder(&c.out)
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return a, mvm.Errorf(mvm.KindInternal, "the process that unpacks layers gave no answer: %w", err)
	}
	if a.Kind == "" {
		return a, nil
	}
	failed := mvm.Errorf(a.Kind, "%s", a.Text)
	if a.Fix != "" {
		failed = failed.WithFix("%s", a.Fix)
	}
	return a, failed
}
