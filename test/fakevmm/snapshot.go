package fakevmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"mvm/internal/driver/firecracker/api"
)

// saved is a device state.
type saved struct {
	Version string                `json:"version"`
	Machine api.MachineConfig     `json:"machine"`
	Drives  []api.Drive           `json:"drives"`
	Network *api.NetworkInterface `json:"network"`
	Vsock   *api.Vsock            `json:"vsock"`
}

const magic = "stand-in state "

// create writes a snapshot.
func (m *machine) create(body []byte) error {
	c, err := into[api.SnapshotCreate](body)
	if err != nil {
		return err
	}
	if m.state != api.Paused {
		return errors.New("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running") //nolint:staticcheck // Firecracker's words
	}
	b, err := json.Marshal(saved{m.knobs.Version, m.machine, m.drives, m.network, m.vsock})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s%08x\n%s", magic, crc32.ChecksumIEEE(b), b)
	if err := os.WriteFile(c.State, []byte(text), 0o644); err != nil {
		return wrap("Create snapshot error: Cannot perform open on the snapshot backing file", err)
	}
	m.paused = false
	return wrap("Create snapshot error", m.memory.dump(c.Memory, c.Type == api.Diff))
}

// load makes a paused machine of a snapshot. A load that fails ends the process.
func (m *machine) load(body []byte) error {
	c, err := into[api.SnapshotLoad](body)
	if err != nil {
		return err
	}
	if err := m.restore(c); err != nil {
		return fmt.Errorf("%w: Failed to restore from snapshot: %w", errDirty, err)
	}
	m.restored = true
	m.setRunning(api.Paused)
	if c.Resume {
		m.setRunning(api.Running)
	}
	return nil
}

func (m *machine) restore(c api.SnapshotLoad) error {
	s, err := readState(c.State)
	if err != nil {
		return fmt.Errorf("Failed to get snapshot state from file: %w", err) //nolint:staticcheck // Firecracker's words
	}
	m.machine, m.drives, m.network, m.vsock = s.Machine, s.Drives, s.Network, s.Vsock
	for _, n := range c.Networks {
		if m.network == nil || m.network.ID != n.ID {
			return errors.New("Failed to get snapshot state from file: Unknown Network Device.") //nolint:staticcheck // Firecracker's words
		}
		m.network.TAP = n.TAP
	}
	if m.memory, err = mapMemory(c.Memory.Path, int64(s.Machine.MemMiB)<<20, c.TrackDirtyPages); err != nil {
		return fmt.Errorf("Failed to load guest memory: Error creating guest memory from file: %w", err) //nolint:staticcheck // Firecracker's words
	}
	for _, d := range m.drives {
		if err := openDrive(d); err != nil {
			return wrap("Failed to build microVM from snapshot", err)
		}
	}
	if m.network != nil {
		if m.tap, err = m.openTAP(m.network.TAP); err != nil {
			return wrap("Failed to build microVM from snapshot: Open tap device failed", err)
		}
	}
	if m.vsock != nil {
		if err := m.listen(); err != nil {
			return wrap("Failed to build microVM from snapshot: Error binding to the host-side Unix socket", err)
		}
	}
	return m.openSerial()
}

func readState(path string) (s saved, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, wrap("Failed to open snapshot file", err)
	}
	const words = "Failed to load snapshot state from file"
	var sum uint32
	head := len(magic) + 9
	if len(b) < head || string(b[:len(magic)]) != magic {
		return s, fmt.Errorf("%s: %s", words, "IO Error: failed to fill whole buffer")
	}
	if _, err := fmt.Sscanf(string(b[len(magic):head]), "%x\n", &sum); err != nil || sum != crc32.ChecksumIEEE(b[head:]) {
		return s, fmt.Errorf("%s: %s", words, "CRC64 validation failed")
	}
	return s, wrap(words, json.Unmarshal(b[head:], &s))
}
