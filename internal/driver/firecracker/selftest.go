package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

const (
	verdictFile = "firecracker-host.json"
	// bootWithin and answerWithin bound the waits for the guest of the self-test.
	bootWithin   = time.Minute
	answerWithin = 10 * time.Second
)

// verdict is what the self-test found out, kept for the binary.
type verdict struct {
	Version int    `json:"version"` // of this format: 1
	Digest  string `json:"digest"`
	Failed  string `json:"failed,omitempty"` // why; "": it passed
}

// kept returns what is kept about this binary. mu is held.
func (d *Driver) kept() (v verdict, ok bool) {
	if d.verdict != nil {
		return *d.verdict, true
	}
	b, err := os.ReadFile(filepath.Join(d.opts.StateDir, verdictFile))
	if err != nil || json.Unmarshal(b, &v) != nil || v.Version != 1 || v.Digest != d.digest {
		return verdict{}, false
	}
	d.verdict = &v
	return v, true
}

// tested refuses a Firecracker whose vsock does not outlive a pause and a restore: the
// first time with a binary it boots a guest to find out, and keeps what it found.
func (d *Driver) tested(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.identify(ctx); err != nil {
		return err
	}
	v, ok := d.kept()
	if !ok {
		var err error
		if v, err = d.selfTest(ctx); err != nil {
			return err
		}
	}
	if v.Failed != "" {
		return mvm.Errorf(mvm.KindUnavailable, "use Firecracker %s: its self-test failed: %s", d.version, v.Failed).
			WithFix("install another release (see docs/firecracker.md); to test this one again, remove %s", filepath.Join(d.opts.StateDir, verdictFile))
	}
	return nil
}

// selfTest takes a guest through both cycles. An error says nothing about the binary.
func (d *Driver) selfTest(ctx context.Context) (verdict, error) {
	image, ok := ProbeImage{}, false
	if d.opts.ProbeImage != nil {
		image, ok = d.opts.ProbeImage()
	}
	if !ok {
		return verdict{}, mvm.Errorf(mvm.KindUnavailable, "test Firecracker: there is no image yet to test it with").WithFix("build an image, then try again")
	}
	lock, err := d.lockState(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer lock.Close()
	v := verdict{Version: 1, Digest: d.digest}
	began := time.Now()
	err = d.cycles(ctx, image)
	if errors.Is(err, errOldImage) {
		return v, mvm.Errorf(mvm.KindUnavailable, "test Firecracker with %s: %w", image.Initrd, err).WithFix("build the pools' images again with this version of mvm")
	}
	if err != nil {
		if _, lacks := sys.Fault(err); lacks || ctx.Err() != nil || !isVerdict(err) { // that says nothing about Firecracker
			return v, mvm.Errorf(mvm.KindUnavailable, "test Firecracker: %w", err)
		}
		v.Failed = err.Error()
	}
	if err := sys.WriteJSON(filepath.Join(d.opts.StateDir, verdictFile), v, 0o600); err != nil {
		return v, mvm.Errorf(mvm.KindInternal, "save the self-test's result: %w", err)
	}
	d.log.Info("tested Firecracker", "version", d.version, "took", time.Since(began), "failed", v.Failed)
	d.verdict = &v
	return v, nil
}

// isVerdict reports that an error is Firecracker's: it refused something, ended, or its
// vsock does not work.
func isVerdict(err error) bool {
	_, refused := errors.AsType[*api.FaultError](err)
	return refused || errors.Is(err, errGone) || errors.Is(err, errVsock)
}

// errVsock says that guest and host did not reach each other.
var errVsock = errors.New("vsock")

// lockState waits until no other process tests, and ends what one left that died over it.
func (d *Driver) lockState(ctx context.Context) (*os.File, error) {
	f, err := rundir.LockState(ctx, d.opts.StateDir, "another agent's test of Firecracker")
	if err != nil {
		return nil, err
	}
	_, err = d.keep.Sweep(ctx, d.opts.StateDir, func(string) bool { return false })
	dirs, gerr := filepath.Glob(filepath.Join(d.opts.StateDir, vmproc.ProbeID+"*"))
	err = errors.Join(err, gerr)
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// cycles boots a guest and asks it, and has it ask its host, after a bare pause and resume
// and after a restore.
func (d *Driver) cycles(ctx context.Context, image ProbeImage) (err error) {
	dir, err := os.MkdirTemp(d.opts.StateDir, vmproc.ProbeID)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // else the next test does
	spec := driver.Spec{ID: vmproc.ProbeID, Dir: dir, RunDir: dir, UID: vmproc.ProbeUID, GID: vmproc.ProbeUID, VCPUs: 2, MemMiB: 256,
		Kernel: image.Kernel, Initrd: image.Initrd, Cmdline: image.Cmdline, Memory: filepath.Join(dir, "memory"), Console: filepath.Join(dir, "console.log")}
	if image.Root != "" {
		spec.Disks = []driver.Disk{{Path: image.Root, Serial: "mvm-root", ReadOnly: true}}
	}
	host, err := listenProbe(dir)
	if err != nil {
		return err
	}
	defer host.close()
	v, err := d.launch(ctx, spec, nil)
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(v.end(context.WithoutCancel(ctx)), v.Close()) }()
	if err := host.both(ctx, v, "after its boot", bootWithin); err != nil {
		return err
	}
	if err := errors.Join(v.Pause(ctx), v.Resume(ctx)); err != nil {
		return err
	}
	if err := host.both(ctx, v, "after a pause and resume", d.answer); err != nil {
		return err
	}
	snap := driver.Snapshot{State: filepath.Join(dir, "state")}
	if err := errors.Join(v.Pause(ctx), v.Snapshot(ctx, snap), v.Kill(ctx), v.Close()); err != nil {
		return err
	}
	w, err := d.launch(ctx, spec, &snap)
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(w.end(context.WithoutCancel(ctx)), w.Close()) }()
	if err := w.Resume(ctx); err != nil {
		return err
	}
	return host.both(ctx, w, "after a restore", d.answer)
}

// probeHost is the host's end of a test's vsock.
type probeHost struct {
	ln      net.Listener
	serving sync.WaitGroup
}

func listenProbe(dir string) (*probeHost, error) {
	h := &probeHost{}
	err := sys.InFolder(dir, func(d *sys.Folder) (err error) {
		h.ln, err = d.Listen(fmt.Sprintf("v.sock_%d", guestproto.HostPort))
		return err
	})
	if err == nil {
		h.serving.Go(h.serve)
	}
	return h, err
}

// serve answers each guest's request by a refusal: that it came and went is all that counts.
func (h *probeHost) serve() {
	for {
		c, err := h.ln.Accept()
		if err != nil {
			return
		}
		h.serving.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(answerWithin))
			var req guestproto.HostRequest
			if guestproto.Receive(c, &req) == nil {
				_ = guestproto.Send(c, guestproto.HostResponse{Error: &guestproto.Error{Message: "a test of the host"}})
			}
		})
	}
}

func (h *probeHost) close() {
	h.ln.Close()
	h.serving.Wait()
}

// errOldImage says nothing about Firecracker.
var errOldImage = errors.New("the mvm-guest in the image is too old to take part")

// both asks the guest, and has it ask its host.
func (h *probeHost) both(ctx context.Context, v *vmm, when string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return fmt.Errorf("%s, its guest does not answer its host: %w: %w", when, errVsock, err)
	}
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, guestproto.Request{Ping: true})
	if err != nil || !resp.Pong {
		return fmt.Errorf("%s, its guest does not answer its host: %w: %w", when, errVsock, err)
	}
	resp, err = guestproto.Call(ctx, c, guestproto.Request{CallHost: true})
	if err == nil && resp.CallHostAck != nil && !resp.CallHostAck.Success && resp.CallHostAck.Detail != nil {
		err = errors.New(*resp.CallHostAck.Detail)
	}
	if _, said := errors.AsType[*guestproto.RemoteError](err); said || err == nil && resp.Error != nil {
		return errOldImage
	}
	if err != nil || resp.CallHostAck == nil || !resp.CallHostAck.Success {
		return fmt.Errorf("%s, its guest does not reach its host: %w: %w", when, errVsock, err)
	}
	return nil
}
