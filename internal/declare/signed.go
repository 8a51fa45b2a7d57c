package declare

import (
	"encoding/json"
	"time"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/store"
)

// Trust says which desired states the host believes. The zero value knows no key
// and takes what is not signed.
type Trust struct {
	// Keys returns the keys that are trusted now; nil: none. It is asked for each signed
	// state, so that a key is withdrawn at once.
	Keys func() (desired.Verifier, error)
	// SignedOnly refuses what is not signed.
	SignedOnly bool
}

// metaAccepted is where the signed state that was accepted last is remembered, of each
// name that the host had.
func metaAccepted(node string) string { return "desired_accepted/" + node }

// signedState checks a signed state in full. accept checks it once more where another
// was accepted meanwhile, and remembers it.
func (c *Declarer) signedState(node string, state []byte) (desired.Document, func(*store.Tx) error, error) {
	var last string
	err := c.opt.Store.View(func(tx *store.Tx) (err error) {
		last, _, err = tx.Meta(metaAccepted(node))
		return err
	})
	if err != nil {
		return desired.Document{}, nil, err
	}
	var keys desired.Verifier
	if c.opt.Trust.Keys != nil {
		if keys, err = c.opt.Trust.Keys(); err != nil {
			return desired.Document{}, nil, err
		}
	}
	doc, got, err := verifyAfter(keys, state, node, last)
	if err != nil {
		return desired.Document{}, nil, err
	}
	return doc, func(tx *store.Tx) error {
		now, _, err := tx.Meta(metaAccepted(node))
		if err == nil && now != last {
			_, got, err = verifyAfter(keys, state, node, now)
		}
		if err != nil {
			return err
		}
		raw, err := json.Marshal(got)
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "remember signed state: %w", err)
		}
		return tx.PutMeta(metaAccepted(node), string(raw))
	}, nil
}

// verifyAfter checks a signed state that comes after the last one, as the store has it.
func verifyAfter(keys desired.Verifier, state []byte, node, last string) (desired.Document, desired.Accepted, error) {
	var before desired.Accepted
	if last != "" {
		if err := json.Unmarshal([]byte(last), &before); err != nil {
			return desired.Document{}, before, mvm.Errorf(mvm.KindInternal, "read the signed state that was accepted last: %w", err)
		}
	}
	return keys.Verify(state, node, before, time.Now())
}

// CheckKept refuses to go on holding the host to a state that is not signed, where
// only signed ones are taken.
func (c *Declarer) CheckKept() error {
	if !c.opt.Trust.SignedOnly {
		return nil
	}
	k, err := c.keptState()
	if err != nil || k == nil || k.Signed {
		return err
	}
	return mvm.Errorf(mvm.KindPolicy, "start in production mode: the host is kept at a state that is not signed").
		WithFix("start the agent once without production mode, and run `mvm agent reconcile --forget`, or keep a signed one")
}
