package store

import (
	"mvm"
)

// metaKeyID is where the id of the master key is kept that the state's secrets are
// sealed with.
const metaKeyID = "master_key_id"

// checkKey refuses to open the state with another master key than its own, before
// anything is read or sealed with it. A state that knows of none yet takes any.
func (s *Store) checkKey() error {
	if s.opts.KeyID == "" {
		return nil
	}
	have, err := s.keyID()
	if err != nil || have == "" || have == s.opts.KeyID || have == s.opts.ReplacesKey {
		return err
	}
	return mvm.Errorf(mvm.KindPolicy, "open state %s: it is encrypted with master key %s, and this host has %s", s.path, have, s.opts.KeyID).
		WithFix("give the agent the right key; if it is lost, see replace_master_key in docs/agent-config.md")
}

func (s *Store) keyID() (id string, err error) {
	err = s.View(func(tx *Tx) error {
		id, _, err = tx.Meta(metaKeyID)
		return err
	})
	return id, err
}

// keepKey remembers the master key. What was sealed with a key that is given up is gone:
// secrets are taken off the record, so that they can be set anew, and so are tenants' keys.
func (s *Store) keepKey() error {
	if s.opts.KeyID == "" {
		return nil
	}
	have, err := s.keyID()
	if err != nil || have == s.opts.KeyID {
		return err
	}
	return s.Update(func(tx *Tx) error {
		if have != "" {
			if err := tx.loseSecrets(); err != nil {
				return err
			}
		}
		return tx.put(bucketMeta, []byte(metaKeyID), s.opts.KeyID)
	})
}

func (t *Tx) loseSecrets() error {
	all, err := t.Tenants()
	if err != nil {
		return err
	}
	for _, n := range all {
		if err := t.deleteTenantKey(n.ID); err != nil {
			return err
		}
		if n.SecretsGeneration == 0 {
			continue
		}
		n.SecretsGeneration++
		n.SecretNames, n.Secrets = nil, nil
		if err := t.PutTenant(n); err != nil {
			return err
		}
		if err := t.DeleteSecrets(n.ID); err != nil {
			return err
		}
	}
	return nil
}
