package deliver_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/deliver"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

const realToken = "111111:REALTOKEN_aaaaaaaaaaaaaaaaaaaaaaaaaaa"

// chatHouse is a tenant with a gateway pool that has a channel, a pool that the channel leads
// to, and another one.
type chatHouse struct {
	*house
	d *deliver.Deliverer
}

func (h chatHouse) OpenSecrets(mvm.Tenant, []byte) (map[string][]byte, error) {
	return map[string][]byte{"telegram_token": []byte(realToken), "model_key": []byte("m")}, nil
}

func newChatHouse(t *testing.T, scopes []mvm.SecretScope) chatHouse {
	h, _ := newHouse(t)
	channel := mvm.Channel{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: []string{"7"},
		To: mvm.ChannelTarget{PoolID: "agents", Selector: mvm.ChannelSelector{From: mvm.KeyFromChat}, TargetPort: 8787, Path: "/hook"}}
	put := func(tx *store.Tx, id, pool string, role mvm.Role, key string, n byte) error {
		return tx.PutInstance(mvm.Instance{ID: id, Tenant: "acme", Pool: pool, Role: role, Key: key, State: mvm.StateRunning, IP: netip.AddrFrom4([4]byte{10, 1, 0, n})})
	}
	err := h.store.Update(func(tx *store.Tx) error {
		return errors.Join(
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker, SecretScopes: scopes}}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "other", Role: mvm.RoleWorker}}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "plain-gateways", Role: mvm.RoleGateway}}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Channels: []mvm.Channel{channel}}}),
			put(tx, "i-00000001", "agents", mvm.RoleWorker, "-100", 5), put(tx, "i-00000002", "other", mvm.RoleWorker, "", 6),
			put(tx, "i-00000003", "gateways", mvm.RoleGateway, "", 7), put(tx, "i-00000004", "plain-gateways", mvm.RoleGateway, "", 8),
			put(tx, "i-00000005", "agents", mvm.RoleWorker, "42", 9))
	})
	if err != nil {
		t.Fatal(err)
	}
	c := chatHouse{house: h}
	c.d = deliver.New(deliver.Options{Store: h.store, Guests: h, Secrets: c, Log: slog.New(slog.DiscardHandler), Call: time.Second})
	return c
}

func (h chatHouse) config(t *testing.T, id string) guestproto.Configure {
	t.Helper()
	var i mvm.Instance
	if err := h.store.View(func(tx *store.Tx) (err error) { i, err = tx.Instance(id); return err }); err != nil {
		t.Fatal(err)
	}
	c, err := h.d.Config(i, "boot")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestChannelSecretGoesToItsGatewayAlone: no other guest of the tenant has the real token
// in any part of its configuration, whether its pool lists secrets or gets all of them.
func TestChannelSecretGoesToItsGatewayAlone(t *testing.T) {
	for name, scopes := range map[string][]mvm.SecretScope{"all secrets": nil,
		"scoped": {{Integration: "chat", Keys: []string{"telegram_token", "model_key"}}}} {
		t.Run(name, func(t *testing.T) {
			h := newChatHouse(t, scopes)
			gateway := h.config(t, "i-00000003")
			if len(gateway.Channels) != 1 || string(gateway.Channels[0].Token) != realToken {
				t.Fatalf("the gateway has %+v", gateway.Channels)
			}
			for _, id := range []string{"i-00000001", "i-00000002", "i-00000004", "i-00000005"} {
				c := h.config(t, id)
				b, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range c.Secrets { // in JSON they are in base64
					b = append(b, v...)
				}
				if bytes.Contains(b, []byte(realToken)) || bytes.Contains(b, []byte(realToken[7:])) || len(c.Channels) > 0 {
					t.Errorf("%s of pool %s has the token of the channel", id, c.PoolID)
				}
				if _, ok := c.Secrets["model_key"]; scopes == nil && !ok {
					t.Errorf("%s lost its other secrets", id)
				}
			}
		})
	}
}

// TestWorkerOfAChannel: a worker learns how the gateway delivers and how it reaches the
// platform; what it shows is its own, and outlives a rotation of the token.
func TestWorkerOfAChannel(t *testing.T) {
	h := newChatHouse(t, nil)
	read := func(id string) (w guestproto.WorkerChannel) {
		if err := json.Unmarshal(h.config(t, id).Secrets["channels/bot.json"], &w); err != nil {
			t.Fatal(err)
		}
		return w
	}
	one, two := read("i-00000001"), read("i-00000005")
	if one.APIRoot != "http://10.1.0.7:8081" || one.Port != 8787 || one.Path != "/hook" || !strings.HasPrefix(one.Token, "111111:") {
		t.Errorf("the worker has %+v", one)
	}
	if one.Token == two.Token || one.Secret == two.Secret || one.Secret == "" {
		t.Errorf("two workers have the same: %+v, %+v", one, two)
	}
	c := h.config(t, "i-00000003").Channels[0]
	instance, key, ok := c.ReadPlaceholder(one.Token)
	if !ok || instance != "i-00000001" || key != "-100" || c.WebhookSecret(instance) != one.Secret {
		t.Errorf("the gateway takes %q for %s, %q, %v", one.Token, instance, key, ok)
	}
	for _, forged := range []string{strings.Replace(one.Token, "00000001", "00000005", 1), one.Token[:len(one.Token)-1], "111111:", "", realToken} {
		if _, _, ok := c.ReadPlaceholder(forged); ok {
			t.Errorf("the gateway takes %q", forged)
		}
	}
	c.Token = []byte("111111:ANOTHER")
	if c.Placeholder("i-00000001", "-100") != one.Token {
		t.Error("a rotation of the token changes what workers have")
	}
	if _, ok := h.config(t, "i-00000002").Secrets["channels/bot.json"]; ok {
		t.Error("a worker to which no channel leads has one")
	}
}

// TestSecretsOfAChannelThatKeeps: both secrets of a WhatsApp channel go to its gateway, and
// to no other guest; a worker gets what the gateway signs with, and no token.
func TestSecretsOfAChannelThatKeeps(t *testing.T) {
	h := newChatHouse(t, nil)
	if err := h.store.Update(func(tx *store.Tx) error {
		p, err := tx.Pool("acme", "gateways")
		if err != nil {
			return err
		}
		p.Spec.Channels = append(p.Spec.Channels, mvm.Channel{Name: "wa", Kind: mvm.ChannelWhatsApp, Mode: mvm.ChannelWebhook, Secret: "app_secret", VerifySecret: "model_key", Allow: []string{"49"},
			Port: 8443, To: mvm.ChannelTarget{PoolID: "agents", TargetPort: 80, Path: "/wa"}})
		return tx.PutPool(p)
	}); err != nil {
		t.Fatal(err)
	}
	if c := h.config(t, "i-00000003").Channels[1]; string(c.Verify) != "m" {
		t.Errorf("the gateway has %+v", c)
	}
	for _, id := range []string{"i-00000001", "i-00000002", "i-00000004"} {
		if _, ok := h.config(t, id).Secrets["model_key"]; ok {
			t.Errorf("%s has the verify token", id)
		}
	}
	var w guestproto.WorkerChannel
	if err := json.Unmarshal(h.config(t, "i-00000001").Secrets["channels/wa.json"], &w); err != nil || w.Secret == "" || w.Token != "" || w.APIRoot != "" || w.Path != "/wa" {
		t.Errorf("the worker has %+v, %v", w, err)
	}
}
