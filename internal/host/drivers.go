package host

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/cli"
	"mvm/internal/driver/fake"
	"mvm/internal/image"
	"mvm/internal/image/builtin"
	"mvm/internal/image/fakeimage"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/linuxnet"
)

// fakeParts are a host in memory: nothing of it outlives the agent but its state. Its
// guests behave as the file fake-knobs.json in the data folder says (fake.Knobs).
func fakeParts(o cli.ServeOptions) parts {
	host, net := fake.NewHost(), fakenet.New()
	return parts{
		driver: fake.New(host, fake.Follow(host, filepath.Join(o.DataDir, "fake-knobs.json"))), network: net,
		builders: []image.Builder{fakeimage.New("builtin:"), image.DirBuilder{}},
		makeDisk: emptyDisk,
		close: func() error {
			host.Close()
			return net.Close()
		},
	}
}

// emptyDisk makes a disk without a file system and without taking space.
func emptyDisk(_ context.Context, path string, mib, _ int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make disk: %w", err)
	}
	return errors.Join(f.Truncate(int64(mib)<<20), f.Close())
}

// networkLock is an abstract unix socket, of which a network namespace has one.
const networkLock = "@mvm-networks"

// lockWait is how long an agent that ends may take to let go of the networks.
const lockWait = 5 * time.Second

// lockNetworks makes sure that one agent alone keeps the tenant networks of this
// network namespace, which have the same names for every agent. It waits a moment for
// one that is on its way out.
func lockNetworks() (io.Closer, error) {
	l, err := net.Listen("unix", networkLock)
	for end := time.Now().Add(lockWait); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); {
		time.Sleep(lockWait / 50)
		l, err = net.Listen("unix", networkLock)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindState, "take the networks of this host: %w", err).
			WithFix("another agent runs here, with another data dir: stop it, or run this one in a network namespace of its own")
	}
	return l, nil
}

// qemuParts are a real host.
func qemuParts(o cli.ServeOptions, log *slog.Logger) (parts, error) {
	if o.Hostd.Socket != "" {
		return splitParts(o, log)
	}
	if os.Geteuid() != 0 {
		return parts{}, mvm.Errorf(mvm.KindPolicy, "use this host: it takes root's rights, and this is user %d", os.Geteuid()).
			WithFix("run as root, or let mvm hostd have the rights (hostd_socket)")
	}
	lock, err := lockNetworks()
	if err != nil {
		return parts{}, err
	}
	p, err := lockedParts(o, log)
	if err != nil {
		return parts{}, errors.Join(err, lock.Close())
	}
	closeNetwork := p.close
	p.close = func() error { return errors.Join(closeNetwork(), lock.Close()) }
	return p, nil
}

func lockedParts(o cli.ServeOptions, log *slog.Logger) (parts, error) {
	b, err := builtinBuilder(o, log)
	if err != nil {
		return parts{}, err
	}
	vmms, err := newSpawn(o.AgentConfig, log)
	if err != nil {
		return parts{}, err
	}
	d, err := newQEMU(o, vmms, log)
	if err != nil {
		return parts{}, err
	}
	n, err := linuxnet.New(linuxnet.Options{Log: log})
	if err != nil {
		return parts{}, mvm.Errorf(mvm.KindOf(err), "open network: %w", err).WithFix("run as root; see `mvm doctor`")
	}
	return parts{driver: d, network: n, builders: []image.Builder{b, image.DirBuilder{}}, close: n.Close}, nil
}

// builtinBuilder builds the images that come with mvm. Without mvm-guest the agent
// works all the same, and says so at the first build.
func builtinBuilder(o cli.ServeOptions, log *slog.Logger) (image.Builder, error) {
	guest, err := builtin.FindGuestBinary(o.GuestBinary)
	if err != nil && o.GuestBinary != "" {
		return nil, err
	}
	if err != nil {
		log.Warn("built-in images can't be built", "err", err)
	}
	return builtin.New(builtin.Options{Dir: filepath.Join(o.DataDir, "images", "parts"), GuestBinary: guest, Log: log})
}
