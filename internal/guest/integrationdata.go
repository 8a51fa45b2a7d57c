package guest

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"mvm/internal/guestproto"
)

// report answers IntegrationStatus.
func (i *integrations) report() guestproto.IntegrationStatusReport {
	r := guestproto.IntegrationStatusReport{Integrations: []guestproto.IntegrationState{}}
	root, err := os.OpenRoot(i.agent.paths.Data)
	if err == nil {
		defer root.Close()
	}
	for _, name := range i.names() {
		s := guestproto.IntegrationState{Name: name, Status: wireState(i.state(name))}
		if root != nil {
			s.LastCheckpointAt = lastCheckpoint(root, name)
			s.StateSizeBytes = stateSize(root, name)
		}
		r.Integrations = append(r.Integrations, s)
	}
	r.Integrations = append(r.Integrations, i.agent.suspension.report()...)
	return r
}

func wireState(state string) json.RawMessage {
	var v any = state
	if msg, ok := strings.CutPrefix(state, "error: "); ok {
		v = map[string]string{"error": msg}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage(`"pending"`)
	}
	return b
}

// lastCheckpoint reads the time of an integration's last checkpoint, nil when
// there is none that can be read.
func lastCheckpoint(root *os.Root, name string) *time.Time {
	f, err := root.Open(path.Join("integrations", name, "checkpoint"))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return nil
	}
	return &t
}

var errEnough = errors.New("enough")

// stateSize sums the sizes of the files in an integration's state folder.
func stateSize(root *os.Root, name string) int64 {
	var sum int64
	count := 0
	_ = fs.WalkDir(root.FS(), path.Join("integrations", name, "state"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what can't be read does not count
		}
		if count++; count > maxStateFiles {
			return errEnough
		}
		if st, err := d.Info(); err == nil && st.Mode().IsRegular() {
			sum += st.Size()
		}
		return nil
	})
	return sum
}

// replaceInRoot writes a file below the root such that a crash leaves the old or
// the new content: the data disk is durable.
func replaceInRoot(root *os.Root, name string, b []byte) error {
	tmp := name + ".new"
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return err
	}
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
