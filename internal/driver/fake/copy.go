package fake

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"mvm/internal/filecopy"
	"mvm/internal/guestproto"
)

// copy carries files as the guest agent does, with a folder of the moment in which the
// guest's files are. Links and empty folders do not outlive it.
func (m *machine) copy(conn net.Conn, spec guestproto.Copy) {
	dir, err := os.MkdirTemp("", "mvm-fake-guest")
	var root *os.Root
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		root, err = os.OpenRoot(dir)
	}
	if err == nil {
		defer root.Close()
		err = m.layOut(root)
	}
	if err != nil {
		_ = guestproto.Send(conn, guestproto.Response{Error: &guestproto.Error{Message: err.Error()}})
		return
	}
	if guestproto.Send(conn, guestproto.Response{ExecStarted: &guestproto.ExecStarted{}}) != nil {
		return
	}
	in, w := io.Pipe()
	var taken sync.WaitGroup
	taken.Go(func() { takeInput(conn, w) })
	if spec.In {
		if _, err = filecopy.Receive(in, filecopy.Target{Path: dir + spec.Path, Name: spec.Name}); err == nil {
			err = m.takeBack(root)
		}
	} else {
		err = filecopy.Send(stdout{conn}, filecopy.Source{Path: dir + spec.Path, Follow: spec.Follow})
	}
	_ = in.Close()
	exit := guestproto.Exit{}
	if err != nil {
		exit.Code = 1
		if errors.Is(err, fs.ErrNotExist) {
			exit.Code = 3
		}
		_ = guestproto.Send(conn, guestproto.ExecFrame{Stderr: []byte(strings.ReplaceAll(err.Error(), dir, "") + "\n")})
	}
	_ = guestproto.Send(conn, guestproto.ExecFrame{Exit: &exit})
	_ = conn.Close() // ends the reader
	taken.Wait()
}

// takeInput writes what the host sends to w, and drops what nobody reads any more.
func takeInput(conn net.Conn, w *io.PipeWriter) {
	for {
		var f guestproto.ExecFrame
		if guestproto.Receive(conn, &f) != nil {
			_ = w.CloseWithError(io.ErrUnexpectedEOF)
			return
		}
		_, _ = w.Write(f.Stdin)
		if f.CloseStdin {
			_ = w.Close()
		}
	}
}

// stdout makes frames of what is written.
type stdout struct{ conn io.Writer }

func (s stdout) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		piece := b[n:min(len(b), n+guestproto.MaxExecData)]
		if err = guestproto.Send(s.conn, guestproto.ExecFrame{Stdout: piece}); err == nil {
			n += len(piece)
		}
	}
	return n, err
}

// layOut writes the guest's files below the folder.
func (m *machine) layOut(root *os.Root) error {
	for _, dir := range []string{"data", "tmp", "etc"} {
		if err := root.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return m.withGuest(func(g *guestState) (change, error) {
		for _, files := range []map[string][]byte{g.Files, m.disk} {
			for path, b := range files {
				to := filepath.Join(".", filepath.Clean("/"+path))
				if err := errors.Join(root.MkdirAll(filepath.Dir(to), 0o755), root.WriteFile(to, b, 0o644)); err != nil {
					return unchanged, err
				}
			}
		}
		return unchanged, nil
	})
}

// takeBack makes the files below the folder the guest's.
func (m *machine) takeBack(root *os.Root) error {
	return m.withGuest(func(*guestState) (change, error) {
		changed := unchanged
		err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := root.ReadFile(path)
			if err != nil {
				return err
			}
			where, err := m.write("/"+path, b)
			changed = max(changed, where)
			return err
		})
		return changed, err
	})
}
