package vm_test

import (
	"strings"

	"mvm"
)

// testRequest follows one HTTP request by its id: from its client through the gateway's
// log into the agent's record and the log of the guest that was booted for it.
func (h *host) testRequest(people string) {
	const id = "client-42.a"
	h.page(people, "/hello", "X-User", "trace", "X-Request-Id", id)
	at := mvm.Address{Tenant: "acme", Pool: "people", Key: "trace"}
	s, err := h.client.Why(h.ctx(), at)
	if n := len(s.Transitions); err != nil || n == 0 || s.Transitions[n-1].Request != id {
		h.t.Errorf("the record is %+v, %v, want request %s", s.Transitions, err, id)
	}
	for _, i := range h.instances() {
		if i.Pool != "gateways" && i.Key != at.Key {
			continue
		}
		var log strings.Builder
		err := h.client.Logs(h.ctx(), i.Address(), mvm.LogsSpec{}, func(l mvm.LogLine) error { log.WriteString(l.Text + "\n"); return nil })
		if err != nil || !strings.Contains(log.String(), "request="+id) {
			h.t.Errorf("the log of %s does not have the request: %v", i.Address(), err)
		}
	}
	h.do(s.Instance.ID, mvm.OpDestroy)
}
