package firecracker_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/firecracker"
	"mvm/internal/image"
	"mvm/internal/testenv"
)

// TestReal is the suite on the real program, with the built-in minimal image. It is skipped
// where there is no KVM or no Firecracker, and fails there where MVM_REQUIRE names it.
func TestReal(t *testing.T) {
	binary, err := firecracker.Binary("")
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
			_ = f.Close()
		}
	}
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("MVM_REQUIRE"), ","), "firecracker") {
			t.Fatalf("MVM_REQUIRE wants Firecracker: %v", err)
		}
		t.Skipf("needs KVM and Firecracker: %v", err)
	}
	testenv.NeedRoot(t)
	img := testenv.Image(t, "builtin:minimal")
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		h := &host{dir: testenv.Dir(t)}
		testenv.NothingLeft(t, h.dir)
		again := func() driver.Driver { return h.realDriver(t, binary, img) }
		return drivertest.Harness{
			Driver: again(), Again: again, Root: h.root(), Patience: time.Minute,
			Spec: func(t testing.TB, id string) driver.Spec {
				s := h.spec(t, id)
				s.MemMiB, s.Kernel, s.Initrd, s.Cmdline = 256, img.Path(img.Kernel), img.Path(img.Initrd), img.Cmdline
				return s
			},
			KillOutside: func(t testing.TB, v driver.VMM, _ driver.Spec) { must(t, syscall.Kill(v.PID(), syscall.SIGKILL)) },
			Scratch:     []string{"vmm.memory"},
			VSock:       true,
			Faults:      h.faults(),
		}
	})
}

func (h *host) realDriver(t testing.TB, binary string, img image.Image) driver.Driver {
	t.Helper()
	d, err := firecracker.New(firecracker.Options{Binary: binary, StateDir: filepath.Join(testenv.Cache(t), "firecracker"), Log: slog.New(slog.DiscardHandler),
		ProbeImage: func() (firecracker.ProbeImage, bool) {
			return firecracker.ProbeImage{Kernel: img.Path(img.Kernel), Initrd: img.Path(img.Initrd), Cmdline: img.Cmdline}, true
		},
		Seam: func(op string) error {
			if h.seam != nil {
				return h.seam(op)
			}
			return nil
		}})
	must(t, err)
	return d
}
