package host

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"mvm/internal/driver"
	"mvm/internal/driver/qemu"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/image"
)

// newQEMU opens the QEMU driver. Its probe of hardware virtualisation boots the
// kernel of any image that is there.
func newQEMU(o Options, vmms spawn.Host, log *slog.Logger) (driver.Driver, error) {
	images, err := image.Open(filepath.Join(o.DataDir, "images"), nil, log)
	if err != nil {
		return nil, err
	}
	probeKernel := func() string {
		all, err := images.List()
		for _, img := range all {
			var f *os.File
			if f, err = images.Open(context.Background(), img, img.Kernel); err == nil {
				_ = f.Close()
				return img.Path(img.Kernel)
			}
		}
		if err != nil {
			log.Warn("no kernel for the probe of KVM", "error", err)
		}
		return ""
	}
	return qemu.New(qemu.Options{Host: vmms, StateDir: filepath.Join(o.DataDir, "qemu"), ProbeKernel: probeKernel, Log: log,
		KVMOnly: o.Trust.Production && !o.Trust.WeakIsolation})
}
