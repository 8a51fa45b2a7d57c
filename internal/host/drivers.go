package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/driver/firecracker"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/builtin"
	"mvm/internal/image/fakeimage"
	"mvm/internal/image/nix"
	"mvm/internal/image/oci"
	"mvm/internal/manifest"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/linuxnet"
	"mvm/internal/owner"
	"mvm/internal/store"
)

// fakeParts are a host in memory: nothing of it outlives the agent but its state. Its
// guests behave as the file fake-knobs.json in the data folder says (fake.Knobs).
func fakeParts(o Options) parts {
	host, net, builtins := fake.NewHost(), fakenet.New(), fakeimage.Of(builtin.New(nil))
	images := []image.Builder{builtins}
	for _, b := range slices.Concat(oci.New(oci.Options{}), nix.New(nix.DefaultOptions())) {
		images = append(images, fakeimage.Of(b))
	}
	images = append(images, image.DirBuilder{Bases: slices.Clone(images)})
	return parts{
		driver: fake.New(host, fake.Follow(host, filepath.Join(o.DataDir, "fake-knobs.json"))), network: net,
		builders: images,
		makeDisk: emptyDisk,
		close: func() error {
			host.Close()
			return net.Close()
		},
	}
}

// emptyDisk makes a disk without a file system and without taking space.
func emptyDisk(_ context.Context, f *os.File, mib int) error {
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return mvm.Errorf(mvm.KindInternal, "make disk: %w", err)
	}
	return nil
}

// realParts are a real host.
func realParts(o Options, own owner.Owner, st *store.Store, log *slog.Logger) (parts, error) {
	if o.Hostd.Socket != "" {
		return splitParts(o, own, st, log)
	}
	if os.Geteuid() != 0 {
		return parts{}, mvm.Errorf(mvm.KindPolicy, "use this host: mvm needs root, and this is user %d", os.Geteuid()).
			WithFix("run as root, or use mvm hostd (hostd_socket)")
	}
	networks, err := takeNetworks(own)
	if err != nil {
		return parts{}, err
	}
	users, err := takeUsers(o, own, st, log)
	if err != nil {
		return parts{}, errors.Join(err, networks.Close())
	}
	p, err := lockedParts(o, own, log)
	if err != nil {
		return parts{}, errors.Join(err, users.Close(), networks.Close())
	}
	closeNetwork := p.close
	p.close = func() error { return errors.Join(closeNetwork(), users.Close(), networks.Close()) }
	return p, nil
}

func lockedParts(o Options, own owner.Owner, log *slog.Logger) (parts, error) {
	b, err := builders(o, log)
	if err != nil {
		return parts{}, err
	}
	d, err := newDriver(o, own, log)
	if err != nil {
		return parts{}, err
	}
	n, err := linuxnet.New(linuxnet.Options{Log: log, Callers: []int{os.Getuid()}})
	if err != nil {
		return parts{}, mvm.Errorf(mvm.KindOf(err), "open network: %w", err).WithFix("run as root; see `mvm doctor`")
	}
	p := parts{driver: d, network: n, names: n, builders: b, close: n.Close}
	if o.Driver == firecracker.Name {
		p.named = n
	}
	return p, nil
}

// newDriver opens the configured driver, for an agent that has the rights itself.
func newDriver(o Options, own owner.Owner, log *slog.Logger) (driver.Driver, error) {
	bounds, mark := allUsers(vmmBounds(o.AgentConfig)), func() (string, error) { return own.Mark, nil }
	if o.Driver == firecracker.Name {
		return newFirecracker(o, bounds, mark, log)
	}
	vmms, err := newSpawn(o.AgentConfig, bounds, mark, log)
	if err != nil {
		return nil, err
	}
	return newQEMU(o, vmms, log)
}

// builders build images. Without mvm-guest the agent works all the same, and says so at the
// first build.
func builders(o Options, log *slog.Logger) ([]image.Builder, error) {
	guest, err := boot.FindGuestBinary(o.GuestBinary)
	if err != nil && o.GuestBinary != "" {
		return nil, err
	}
	if err != nil {
		log.Warn("images can't be built", "error", err)
	}
	base, err := boot.Open(boot.Options{Dir: filepath.Join(o.DataDir, "images", "parts"), GuestBinary: guest, Log: log})
	if err != nil {
		return nil, err
	}
	b := builtin.New(base)
	containers := oci.New(oci.Options{Base: base, Credentials: o.Registries.Credentials, PrivateRegistries: o.Registries.Private, Adapt: builtin.InContainer})
	bases := append([]image.Builder{b}, containers...)
	return append(append(bases, image.DirBuilder{Bases: slices.Clone(bases)}), flakes(o.Nix, b)...), nil
}

// flakes build images from Nix flakes, over a base where they want one.
func flakes(c manifest.NixConfig, base image.Builder) []image.Builder {
	o := nix.DefaultOptions()
	o.Base, o.Substituters, o.Disk, o.Memory = base, c.Substituters, int64(c.StoreMiB)<<20, int64(c.MemoryMiB)<<20
	return nix.New(o)
}
