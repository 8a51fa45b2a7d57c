package host

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/metrics"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// serveMetrics makes the host's figures, and serves them where the config says so: on TCP
// to who has the token, on a Unix socket to root and the group of the agent's socket. stop
// ends the serving.
func serveMetrics(o Options, st *store.Store, log *slog.Logger) (_ *metrics.Metrics, stop func() error, err error) {
	m := metrics.New(metrics.Sources{Fleet: st.Fleet, Audited: func() uint64 { return st.LastMark().Seq }})
	if o.Observe.MetricsListen == "" {
		return m, func() error { return nil }, nil
	}
	if path, unix := strings.CutPrefix(o.Observe.MetricsListen, "unix:"); unix {
		group, err := lookupGroup(o.SocketGroup)
		if err != nil {
			return nil, nil, err
		}
		ln, err := api.Listen(path, group)
		if err != nil {
			return nil, nil, mvm.Errorf(mvm.KindOf(err), "listen for scrapes: %w", err)
		}
		return m, m.ServeOn(ln, log).Close, nil
	}
	token, err := metricsToken(filepath.Join(o.DataDir, "metrics.token"))
	if err != nil {
		return nil, nil, err
	}
	s, err := m.Serve(o.Observe.MetricsListen, token, log)
	if err != nil {
		return nil, nil, err
	}
	return m, s.Close, nil
}

// A token has enough bytes that nobody guesses it.
const minToken, maxToken = 16, 4096

// metricsToken reads the token of scrapes, and makes it the first time.
func metricsToken(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		token := hex.EncodeToString(randomBytes(32))
		if err := sys.CreateFile(path, []byte(token+"\n"), 0o600); err != nil {
			return "", mvm.Errorf(mvm.KindInternal, "make the token of scrapes: %w", err)
		}
		return token, nil
	}
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "read the token of scrapes: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "read the token of scrapes: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken || len(b) > maxToken || strings.ContainsAny(token, " \t\r\n") {
		return "", mvm.Errorf(mvm.KindInvalid, "read the token of scrapes: %s is not one word of %d to %d bytes", path, minToken, maxToken).
			WithFix("remove it, and the agent makes another")
	}
	return token, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}
