package rundir

import (
	"errors"
	"io"
	"os"
	"strings"

	"mvm"
	"mvm/internal/sys"
)

// OpenLog opens the log of a VMM that is to be started.
func OpenLog(runDir string) (f *os.File, err error) {
	err = sys.InFolder(runDir, func(d *sys.Folder) (err error) {
		f, err = d.Append(LogFile)
		return err
	})
	return f, mvm.Explain("make the VMM's log", err)
}

// Tail returns the last lines of what the VMM itself said, at most 1 KiB.
func Tail(runDir string) string {
	const most = 1024
	b := make([]byte, most)
	err := sys.InFolder(runDir, func(d *sys.Folder) error {
		f, err := d.Open(LogFile, os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		n, err := f.ReadAt(b, max(0, st.Size()-most)) // it may be of any size: a VMM writes it
		b = b[:n]
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
}
