package sim_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/image"
	"mvm/internal/network"
	"mvm/internal/publish"
)

// pause waits as a slow part of the host does, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return mvm.Errorf(mvm.KindTimeout, "waited %s: %w", d, ctx.Err())
	}
}

// call parks, and then waits and fails as it was told to.
func (l *life) call(ctx context.Context, what, name, id string) error {
	v := l.w.s.park(l, what, name, id)
	if err := pause(ctx, v.wait); err != nil {
		return err
	}
	return v.err
}

// nets is the host's network as one agent has it.
type nets struct{ l *life }

var _ network.Network = nets{}

func (n nets) Apply(ctx context.Context, cfg network.Config) error {
	if err := n.l.call(ctx, atNet, "apply", ""); err != nil {
		return err
	}
	return n.l.w.net.Apply(ctx, cfg)
}

func (n nets) OpenTAP(ctx context.Context, tenant, instance string, owner int) (*os.File, error) {
	if err := n.l.call(ctx, atNet, "open-tap", instance); err != nil {
		return nil, err
	}
	f, err := n.l.w.net.OpenTAP(ctx, tenant, instance, owner)
	if err == nil {
		n.l.hold(f)
	}
	return f, err
}

func (n nets) Sweep(ctx context.Context) ([]string, error) {
	if err := n.l.call(ctx, atNet, "sweep", ""); err != nil {
		return nil, err
	}
	return n.l.w.net.Sweep(ctx)
}

func (n nets) Verify(ctx context.Context) ([]network.Finding, error) { return n.l.w.net.Verify(ctx) }
func (n nets) Occupied(ctx context.Context) ([]network.Range, error) { return n.l.w.net.Occupied(ctx) }
func (n nets) Close() error                                          { return nil }

// images builds images of nothing.
type images struct{ l *life }

var _ image.Store = images{}

func (i images) Check(string) error { return nil }

func (i images) Run(ctx context.Context, job image.Job) (image.Image, error) {
	if err := i.l.call(ctx, atImage, "build", ""); err != nil {
		return image.Image{}, err
	}
	sum := sha256.Sum256([]byte(job.Request.Ref))
	img := i.image("sha256:" + hex.EncodeToString(sum[:]))
	i.l.w.built(img.Digest)
	if err := os.MkdirAll(img.Dir, 0o700); err != nil {
		return img, err
	}
	return img, errors.Join(os.WriteFile(img.Path(img.Kernel), nil, 0o600), os.WriteFile(img.Path(img.Initrd), nil, 0o600))
}

func (i images) image(digest string) image.Image {
	return image.Image{Version: 1, Arch: "amd64", Kernel: image.File{Name: "vmlinux"}, Initrd: image.File{Name: "initrd"}, Digest: digest,
		Dir: filepath.Join(i.l.w.dir, "images", digest)}
}

func (i images) Get(digest string) (image.Image, error) {
	img := i.image(digest)
	if _, err := os.Stat(img.Dir); err != nil {
		return img, mvm.Errorf(mvm.KindNotFound, "image %s is not there", digest)
	}
	return img, nil
}

func (i images) Open(_ context.Context, img image.Image, f image.File) (*os.File, error) {
	return os.Open(img.Path(f))
}

func (i images) List() ([]image.Image, error) { return nil, nil }

// GC removes what nothing uses, as the real one does.
func (i images) GC(ctx context.Context, keep func(string) bool) (int64, error) {
	if err := i.l.call(ctx, atImage, "gc", ""); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(filepath.Join(i.l.w.dir, "images"))
	if err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	for _, e := range entries {
		if !keep(e.Name()) && !i.l.w.fresh(e.Name()) {
			if err := os.RemoveAll(filepath.Join(i.l.w.dir, "images", e.Name())); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

// noPublisher serves nothing.
type noPublisher struct{}

func (noPublisher) Apply(b []publish.Binding) ([]publish.Outcome, error) {
	out := make([]publish.Outcome, len(b))
	for n := range b {
		out[n].Addr = b[n].Publish.Host
	}
	return out, nil
}

func (noPublisher) Close() error { return nil }

// sockets are the host's unix sockets, in memory.
type sockets struct {
	mu sync.Mutex
	by map[string]*socket
}

type socket struct {
	all   *sockets
	path  string
	life  *life
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (s *sockets) listen(l *life, path string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	so := &socket{all: s, path: path, life: l, conns: make(chan net.Conn), done: make(chan struct{})}
	s.by[path] = so
	return so, nil
}

func (s *socket) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *socket) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.all.mu.Lock()
		defer s.all.mu.Unlock()
		if s.all.by[s.path] == s {
			delete(s.all.by, s.path)
		}
	})
	return nil
}

func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// dial connects as a guest's program does.
func (s *sockets) dial(ctx context.Context, path string) (net.Conn, error) {
	s.mu.Lock()
	so := s.by[path]
	s.mu.Unlock()
	if so == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "nobody listens on %s", path)
	}
	here, there := net.Pipe()
	select {
	case so.conns <- there:
		return here, nil
	case <-so.done:
	case <-ctx.Done():
	}
	return nil, mvm.Errorf(mvm.KindUnavailable, "nobody takes the connection to %s", path)
}

// dropLife closes what an agent that died listened on.
func (s *sockets) dropLife(l *life) {
	s.mu.Lock()
	var gone []*socket
	for _, so := range s.by {
		if so.life == l {
			gone = append(gone, so)
		}
	}
	s.mu.Unlock()
	for _, so := range gone {
		so.Close()
	}
}

// paths are what is listened on.
func (s *sockets) paths() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for p := range s.by {
		out[p] = true
	}
	return out
}

// seeded is a source of ids that a seed always gives in the same order.
type seeded struct {
	mu  sync.Mutex
	src *rand.ChaCha8
}

func newSeeded(seed uint64) *seeded {
	var key [32]byte
	for n := range 8 {
		key[n] = byte(seed >> (8 * n))
	}
	return &seeded{src: rand.NewChaCha8(key)}
}

func (s *seeded) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Read(p)
}

// driverHook has every operation of the driver park, but those within a lock.
func (l *life) driverHook(ctx context.Context, op fake.Op, id string) error {
	return l.call(ctx, atDriver, string(op), id)
}

// makeDisk makes a data disk.
func (l *life) makeDisk(ctx context.Context, f *os.File, _ int) error {
	if err := l.call(ctx, atDisk, "make", ""); err != nil {
		return err
	}
	_, err := f.WriteString("disk")
	return err
}

// keepFresh is how long a build that was returned is kept for its caller to record it:
// longer than any leap of the clock, since the real store measures it by the host's.
const keepFresh = 24 * time.Hour

func (w *world) built(digest string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.builds[digest] = time.Now()
}

func (w *world) fresh(digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.builds[digest]) < keepFresh
}
