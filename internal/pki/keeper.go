package pki

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"syscall"
	"time"

	"mvm"
)

// checkEvery is how often a Keeper looks whether the node's certificate is to be
// renewed, at the latest; clocks jump.
const checkEvery = time.Minute

// Keeper gives an agent the certificates that are in force: it reads the files anew
// when they change, and renews the node's certificate in the middle of its life where
// the CA's key is on this host. Everything on it may be called concurrently.
type Keeper struct {
	dir    *Dir
	life   time.Duration
	log    *slog.Logger
	latest Latest

	mu         sync.Mutex
	state      *state
	generation uint64   // of state
	seen       [3]stamp // of the files that state is from, also where they could not be read
	problem    error    // of the last reading
	warned     time.Time

	cancel context.CancelFunc
	done   chan struct{}
}

// state is what the files said. It is never changed.
type state struct {
	ca    *x509.Certificate
	roots *x509.CertPool
	node  *node
	crl   *crl
}

// stamp tells one content of a file from another.
type stamp struct {
	ino        uint64
	size       int64
	mtim, ctim syscall.Timespec
}

// Latest keeps, over restarts, the number of the latest revocation list of each CA that
// was in force. A CA is named by its certificate's digest.
type Latest interface {
	// Number is the zero value's where none is kept.
	Number(ca string) (*big.Int, error)
	Keep(ca string, number *big.Int) error
}

// Remember has the keeper refuse a revocation list older than the latest, also when that
// was in force in an earlier process. It comes before Open.
func (k *Keeper) Remember(latest Latest) { k.latest = latest }

// NewKeeper returns a keeper that does nothing until Open. life is that of the
// certificates that it renews.
func NewKeeper(dir *Dir, life time.Duration, log *slog.Logger) *Keeper {
	return &Keeper{dir: dir, life: life, log: log, done: make(chan struct{})}
}

// Open reads the files, which must all be there, and begins to keep them. Where the
// CA's key is here, a certificate in the second half of its life is renewed first.
func (k *Keeper) Open() error {
	k.renew()
	if err := k.refresh(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go k.run(ctx)
	return nil
}

// Close ends what Open began.
func (k *Keeper) Close() error {
	if k.cancel != nil {
		k.cancel()
		<-k.done
	}
	return nil
}

func (k *Keeper) run(ctx context.Context) {
	defer close(k.done)
	for {
		wait := checkEvery
		if s := k.current(); s != nil {
			wait = min(wait, max(time.Second, time.Until(renewAt(s.node.cert))))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		k.renew()
	}
}

// renew replaces the node's certificate when it is time, where it can.
func (k *Keeper) renew() {
	s := k.current()
	now := time.Now()
	if s == nil || now.Before(renewAt(s.node.cert)) && !s.crl.revoked[serialText(s.node.cert)] {
		return
	}
	if !k.dir.HasCAKey() {
		k.warn("node's certificate is to be renewed, and the CA's key is on another host, or another user's", "expires", s.node.cert.NotAfter, "fix", "mvm agent certs request")
		return
	}
	info, err := k.dir.RotateNode("", nil, k.life, now)
	if err != nil {
		k.warn("renew node's certificate", "expires", s.node.cert.NotAfter, "error", err)
		return
	}
	k.log.Info("node's certificate renewed", "serial", info.Serial, "expires", info.NotAfter)
}

// warn logs at most once in an hour.
func (k *Keeper) warn(msg string, args ...any) {
	k.mu.Lock()
	again := time.Since(k.warned) > time.Hour
	if again {
		k.warned = time.Now()
	}
	k.mu.Unlock()
	if again {
		k.log.Warn(msg, args...)
	}
}

// current returns what is in force now; nil when nothing could ever be read.
func (k *Keeper) current() *state {
	_ = k.refresh() // its problem is logged, and what was in force stays
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// refresh reads the files where they changed. Files that can't be read change nothing,
// and neither does a revocation list older than one that was in force.
func (k *Keeper) refresh() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := [3]stamp{k.dir.stamp(caFile), k.dir.stamp(crlFile), k.dir.stamp(nodeFile)}
	if now == k.seen && (k.state != nil || k.problem != nil) {
		return k.problem
	}
	s, err := k.dir.load()
	if err == nil {
		err = k.keepLatest(s)
	}
	k.seen, k.problem = now, err
	if err != nil {
		if k.state != nil {
			k.log.Error("certificates changed and can't be used; the earlier ones stay in force", "error", err)
		}
		return err
	}
	k.state, k.generation = s, k.generation+1
	return nil
}

// keepLatest refuses a revocation list older than one that was in force, which would let
// in whom that had revoked, and else keeps its number.
func (k *Keeper) keepLatest(s *state) error {
	highest := new(big.Int)
	if k.state != nil && k.state.ca.Equal(s.ca) {
		highest = k.state.crl.number
	}
	sum := sha256.Sum256(s.ca.Raw)
	ca := hex.EncodeToString(sum[:])
	if k.latest != nil {
		kept, err := k.latest.Number(ca)
		if err != nil {
			return mvm.Errorf(mvm.KindOf(err), "read which revocation list was in force: %w", err)
		}
		if kept.Cmp(highest) > 0 {
			highest = kept
		}
	}
	switch s.crl.number.Cmp(highest) {
	case -1:
		return mvm.Errorf(mvm.KindState, "revocation list %s in %s is older than the last one used, %s", s.crl.number, k.dir.file(crlFile), highest).
			WithFix("copy the latest ca.crl from the CA's host; it must have number %s or higher, see `mvm agent certs status` there", highest)
	case 0:
		return nil
	}
	if k.latest == nil {
		return nil
	}
	if err := k.latest.Keep(ca, s.crl.number); err != nil { // it is in force all the same
		k.log.Error("keep which revocation list is in force; after a restart an older one would be taken", "number", s.crl.number.String(), "error", err)
	}
	return nil
}

func (d *Dir) load() (*state, error) {
	ca, err := d.caCert()
	if err != nil {
		return nil, err
	}
	list, err := d.loadCRL()
	if err != nil {
		return nil, err
	}
	n, err := d.loadNode(ca)
	if err != nil {
		return nil, err
	}
	s := &state{ca: ca, roots: x509.NewCertPool(), node: n, crl: list}
	s.roots.AddCert(ca)
	return s, nil
}

func (d *Dir) stamp(name string) stamp {
	st, err := os.Lstat(d.file(name))
	if err != nil {
		return stamp{}
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{ino: sys.Ino, size: sys.Size, mtim: sys.Mtim, ctim: sys.Ctim}
}

// Node returns the node's certificate that is in force.
func (k *Keeper) Node() CertInfo {
	s := k.current()
	if s == nil {
		return CertInfo{}
	}
	return Describe(s.node.cert)
}

// CheckClient says whom a client's certificate is for, if it is in force now: signed
// by the CA, within its time, not revoked, and a client's of this trust domain.
func (k *Keeper) CheckClient(c *x509.Certificate) (Identity, error) {
	s := k.current()
	if s == nil {
		return Identity{}, mvm.Errorf(mvm.KindUnavailable, "this node has no certificates")
	}
	return s.checkClient(c, k.dir.domain, time.Now())
}

func (s *state) checkClient(c *x509.Certificate, domain string, now time.Time) (Identity, error) {
	_, err := c.Verify(x509.VerifyOptions{Roots: s.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate %s is valid from %s to %s only", serialText(c), c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339)).
			WithFix("create a new one; if it should be valid, compare the clocks of the two machines")
	case err != nil:
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate %s: %w", serialText(c), err)
	case s.crl.revoked[serialText(c)]:
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate %s is revoked", serialText(c)).WithFix("ask the node's operator for a new one")
	}
	id, err := IdentityOf(c)
	if err == nil && (id.Client == "" || id.Domain != domain) {
		err = mvm.Errorf(mvm.KindPolicy, "certificate of %s is not of a client of %s", id.URI(), domain)
	}
	return id, err
}

// ServerTLS is the configuration of a server that takes TLS 1.3 only, from clients
// with a certificate that CheckClient takes. It shows the node's certificate that is
// in force at each new connection.
func (k *Keeper) ServerTLS(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s := k.current()
		if s == nil {
			return nil, mvm.Errorf(mvm.KindUnavailable, "this node has no certificates")
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.node.tls},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.roots, NextProtos: protocols,
			SessionTicketsDisabled: true, // so that every connection shows its certificate
			VerifyConnection: func(c tls.ConnectionState) error {
				_, err := s.checkClient(c.PeerCertificates[0], k.dir.domain, time.Now())
				return err
			}}, nil
	}}
}

// Generation changes whenever other certificates or another revocation list come into
// force, so that whoever was let in before can be looked at again.
func (k *Keeper) Generation() uint64 {
	_ = k.current()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}
