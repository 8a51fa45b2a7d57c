package host

import (
	"context"
	"errors"
	"log/slog"
	"math/big"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/metrics"
	"mvm/internal/pki"
	"mvm/internal/remote"
	"mvm/internal/store"
)

// remoteAPI is the API for other machines; the zero value is none.
type remoteAPI struct {
	keeper *pki.Keeper
	server *remote.Server
}

// listenRemote takes up the node's certificates and binds the address for remote
// clients, when one is configured. Nobody is answered yet.
func listenRemote(o Options, st *store.Store, log *slog.Logger) (*remoteAPI, error) {
	c := o.Remote
	if c.Listen == "" {
		return &remoteAPI{}, nil
	}
	k := pki.NewKeeper(pki.At(c.CertDir, c.TrustDomain), time.Duration(c.CertHours)*time.Hour, log)
	k.Remember(revocations{st})
	if err := k.Open(); err != nil {
		return nil, err
	}
	s, err := remote.Listen(remote.Options{Listen: c.Listen, Keeper: k, Log: log, Rate: c.Rate, Burst: c.Burst, Connections: c.Connections})
	if err != nil {
		_ = k.Close()
		return nil, err
	}
	return &remoteAPI{keeper: k, server: s}, nil
}

// revocations are which revocation lists were in force, in the state.
type revocations struct{ st *store.Store }

func (r revocations) key(ca string) string { return "crl_number_" + ca }

func (r revocations) Number(ca string) (*big.Int, error) {
	n := new(big.Int)
	return n, r.st.View(func(tx *store.Tx) error {
		text, ok, err := tx.Meta(r.key(ca))
		if _, good := n.SetString(text, 10); err == nil && ok && !good {
			err = mvm.Errorf(mvm.KindInternal, "the number %q of a revocation list is none", text)
		}
		return err
	})
}

func (r revocations) Keep(ca string, number *big.Int) error {
	return r.st.Update(func(tx *store.Tx) error { return tx.PutMeta(r.key(ca), number.String()) })
}

// addr is where remote clients are answered; empty: nowhere.
func (r *remoteAPI) addr() string {
	if r.server == nil {
		return ""
	}
	return r.server.Addr()
}

// figures are those of the API for other machines, when there is one.
func (r *remoteAPI) figures(m *metrics.Metrics) {
	if r.server == nil {
		return
	}
	m.Remote(func() metrics.Remote {
		f := r.server.Figures()
		return metrics.Remote{Connections: f.Connections, Refused: f.Refused, CertificateUntil: r.keeper.Node().NotAfter.Unix()}
	})
}

// open answers remote clients from now on.
func (r *remoteAPI) open(svc api.Service, cfg api.ServerConfig) {
	if r.server == nil {
		return
	}
	r.server.Open(svc, cfg)
	node := r.keeper.Node()
	cfg.Log.Info("agent serves remote clients", "addr", r.addr(), "node", node.Identity, "certificate_until", node.NotAfter)
}

// close lets what is under way end for a while, and then ends it.
func (r *remoteAPI) close() error {
	if r.server == nil {
		return nil
	}
	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return errors.Join(r.server.Close(grace), r.keeper.Close())
}
