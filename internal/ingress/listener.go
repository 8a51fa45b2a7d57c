package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Bounds of what one guest may ask of its host.
const (
	hostConns        = 64               // connections at once
	hostIdle         = 60 * time.Second // between requests on one connection
	hostRate         = 50               // requests per second, with a burst of
	hostBurst        = 200
	hostAnswerWait   = 15 * time.Minute // an Acquire may boot a workload
	frameReadTimeout = 5 * time.Second  // for the rest of a frame that has begun
)

// Listener takes an instance's host-bound connections. Who asks is known by the
// socket, never by the message.
type Listener struct {
	in     *Ingress
	tenant string
	pool   string
	id     string
	ln     net.Listener
	limit  *rate.Limiter
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Listen takes the host-bound connections of the instance.
func (in *Ingress) Listen(i mvm.Instance) (*Listener, error) {
	ln, err := in.opt.Instances.ListenHost(i.ID)
	if err != nil {
		return nil, mvm.Explain("listen for host-bound requests of "+i.ID, err)
	}
	h := &Listener{in: in, tenant: i.Tenant, pool: i.Pool, id: i.ID, ln: ln,
		limit: rate.NewLimiter(hostRate, hostBurst),
		slots: make(chan struct{}, hostConns), conns: map[net.Conn]struct{}{}}
	h.ctx, h.cancel = context.WithCancel(in.life)
	h.wg.Go(h.serve)
	return h, nil
}

// Close stops listening, ends the connections and waits for their goroutines.
func (h *Listener) Close() error {
	h.cancel()
	err := h.ln.Close()
	h.mu.Lock()
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return errors.Join(err, h.in.opt.Instances.RemoveHostSocket(h.id))
}

func (h *Listener) serve() {
	for {
		c, err := h.ln.Accept()
		if err != nil {
			if h.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			h.in.opt.Log.Warn("accept host-bound connection", "instance", h.id, "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		select {
		case h.slots <- struct{}{}:
			h.track(c, true)
			h.wg.Go(func() {
				defer func() { h.track(c, false); c.Close(); <-h.slots }()
				h.handle(c)
			})
		default:
			c.Close()
		}
	}
}

func (h *Listener) track(c net.Conn, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !on {
		delete(h.conns, c)
		return
	}
	h.conns[c] = struct{}{}
	if h.ctx.Err() != nil {
		c.Close()
	}
}

// handle answers the requests of one connection until it ends, breaks the protocol
// or is idle too long.
func (h *Listener) handle(c net.Conn) {
	for {
		if err := c.SetReadDeadline(time.Now().Add(hostIdle)); err != nil {
			return
		}
		var req guestproto.HostRequest
		err := guestproto.Receive(&frameDeadline{c: c}, &req)
		var bad *guestproto.VariantError
		switch {
		case errors.As(err, &bad):
			h.in.opt.Metrics.HostBound("", "invalid")
			if !h.reply(c, refuse("%s", bad.Error())) {
				return
			}
			continue
		case err != nil:
			return
		}
		resp, result := refuse("too many requests: at most %d a second", hostRate), "limited"
		if h.limit.Allow() {
			resp = h.answer(req)
			result = resultOf(resp)
		}
		_, what := named(req)
		h.in.opt.Metrics.HostBound(what, result)
		if !h.reply(c, resp) {
			return
		}
	}
}

// frameDeadline shortens the read deadline once a frame has begun, so that a slow
// sender can't hold the connection.
type frameDeadline struct {
	c     net.Conn
	begun bool
}

func (f *frameDeadline) Read(p []byte) (int, error) {
	n, err := f.c.Read(p)
	if n > 0 && !f.begun {
		f.begun = true
		if e := f.c.SetReadDeadline(time.Now().Add(frameReadTimeout)); e != nil {
			return n, e
		}
	}
	return n, err
}

func (h *Listener) reply(c net.Conn, resp guestproto.HostResponse) bool {
	if err := c.SetWriteDeadline(time.Now().Add(h.in.opt.Call)); err != nil {
		return false
	}
	return guestproto.Send(c, resp) == nil
}

func refuse(format string, args ...any) guestproto.HostResponse {
	return guestproto.HostResponse{Error: &guestproto.Error{Message: display.Clip(fmt.Sprintf(format, args...))}}
}

// answer does one request in the name of the instance whose socket it is.
func (h *Listener) answer(req guestproto.HostRequest) guestproto.HostResponse {
	ctx, cancel := context.WithTimeout(h.ctx, hostAnswerWait)
	defer cancel()
	ctx = mvm.WithRequest(ctx, req.ID())
	routes, role, err := h.routes()
	if err != nil {
		return refuse("%s", forGuest(err))
	}
	tenant, what := named(req)
	if tenant != "" && tenant != h.tenant {
		return h.refused(ctx, what, "it named tenant %q", display.Clip(tenant))
	}
	if role != mvm.RoleGateway && forGateways(req) {
		return h.refused(ctx, what, "its role is %s, not gateway", role)
	}
	if why := beyondRoutes(routes, req, h.id); why != "" {
		resp := h.refused(ctx, what, "%s", why)
		if req.Acquire != nil { // asking again does not help
			resp = guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Detail: &resp.Error.Message}}
		}
		return resp
	}
	switch {
	case req.WakeInstance != nil:
		return h.wakeInstance(ctx, *req.WakeInstance)
	case req.QueryInstanceStatus != nil:
		return h.queryStatus(*req.QueryInstanceStatus)
	case req.Acquire != nil:
		return h.acquire(ctx, *req.Acquire)
	case req.ReportActivity != nil:
		h.in.activity.report(h.id, req.ReportActivity.Instances, func(act guestproto.Activity) bool { return h.counts(routes, act) })
		h.prove(routes, req.ReportActivity.Instances)
		return guestproto.HostResponse{ActivityAck: true}
	case req.ReportHealth != nil:
		return h.reported(*req.ReportHealth)
	case req.Preflight != nil:
		return h.preflight(ctx, *req.Preflight)
	case req.SyncInstance != nil:
		return h.sync(ctx, *req.SyncInstance)
	case req.ReportMessages != nil:
		return h.messages(routes, *req.ReportMessages)
	}
	return refuse("request is not known")
}

// forGateways reports that only gateways ask for this.
func forGateways(r guestproto.HostRequest) bool {
	return r.WakeInstance != nil || r.Acquire != nil || r.ReportActivity != nil || r.Preflight != nil || r.SyncInstance != nil || r.ReportMessages != nil
}

// routes is what the instance's pool leads to, and the instance's role, as the store has
// them now. A gateway whose pool has no table has an empty one.
func (h *Listener) routes() (routes reach, role mvm.Role, err error) {
	err = h.in.opt.Store.View(func(tx *store.Tx) error {
		i, err := tx.Instance(h.id)
		if err != nil || i.Role != mvm.RoleGateway {
			role = i.Role
			return err
		}
		p, err := tx.Pool(i.Tenant, i.Pool)
		if p.Spec.Routes != nil {
			routes.RoutingTable = *p.Spec.Routes
		}
		routes.channels = p.Spec.Channels
		role = i.Role
		return err
	})
	return routes, role, err
}

// beyondRoutes says why a guest may not ask for this; "" where it may. A gateway asks
// for what its routes and channels lead to, and every guest for its own status.
func beyondRoutes(routes reach, r guestproto.HostRequest, self string) string {
	switch {
	case r.Acquire != nil && r.Acquire.InstanceID != "": // as WakeInstance
		if !routes.Name(r.Acquire.PoolID) {
			return fmt.Sprintf("no route of it leads to pool %q", display.Clip(r.Acquire.PoolID))
		}
	case r.Preflight != nil && !routes.chats(r.Preflight.PoolID):
		return fmt.Sprintf("no channel of it leads to pool %q", display.Clip(r.Preflight.PoolID))
	case r.SyncInstance != nil && !routes.chats(r.SyncInstance.PoolID):
		return fmt.Sprintf("no channel of it leads to pool %q", display.Clip(r.SyncInstance.PoolID))
	case r.Acquire != nil && !routes.LeadTo(r.Acquire.PoolID, r.Acquire.Key, r.Acquire.IP, r.Acquire.Channel):
		return fmt.Sprintf("no route of it leads to pool %q in this way", display.Clip(r.Acquire.PoolID))
	case r.WakeInstance != nil && !routes.Name(r.WakeInstance.PoolID):
		return fmt.Sprintf("no route of it leads to pool %q", display.Clip(r.WakeInstance.PoolID))
	case r.QueryInstanceStatus != nil && r.QueryInstanceStatus.InstanceID != self && !routes.Name(r.QueryInstanceStatus.PoolID):
		return fmt.Sprintf("no route of it leads to pool %q", display.Clip(r.QueryInstanceStatus.PoolID))
	}
	return ""
}

// named is the tenant that a request names, and its variant.
func named(r guestproto.HostRequest) (tenant, what string) {
	switch {
	case r.WakeInstance != nil:
		return r.WakeInstance.TenantID, "WakeInstance"
	case r.QueryInstanceStatus != nil:
		return r.QueryInstanceStatus.TenantID, "QueryInstanceStatus"
	case r.Acquire != nil:
		return r.Acquire.TenantID, "Acquire"
	case r.ReportHealth != nil:
		return "", "ReportHealth"
	case r.Preflight != nil:
		return r.Preflight.TenantID, "Preflight"
	case r.SyncInstance != nil:
		return r.SyncInstance.TenantID, "SyncInstance"
	case r.ReportMessages != nil:
		return "", "ReportMessages"
	}
	return "", "ReportActivity"
}

// refused audits a refusal, bounded, and answers it.
func (h *Listener) refused(ctx context.Context, what, format string, args ...any) guestproto.HostResponse {
	why := fmt.Sprintf(format, args...)
	h.in.opt.Journal.Record(mvm.Event{Action: mvm.WakeRefused, Tenant: h.tenant, Pool: h.pool, Instance: h.id, By: h.asker(), Why: what, Detail: why,
		Request: mvm.RequestFrom(ctx)})
	return refuse("%s refused: %s", what, why)
}

// asker names the guest itself; gatewayAsker the requests that arrived at it.
func (h *Listener) asker() mvm.Asker { return mvm.Asker{Kind: mvm.AskerGuest, ID: h.id} }

func (h *Listener) gatewayAsker() mvm.Asker {
	return mvm.Asker{Kind: mvm.AskerGateway, ID: h.id}
}

// find looks up an instance that must be the tenant's own. Another tenant's is as
// if it was not there.
func (h *Listener) find(n guestproto.InstanceName) (i mvm.Instance, err error) {
	i, err = h.findID(n.InstanceID)
	if err == nil && n.PoolID != i.Pool {
		err = absent(n.InstanceID)
	}
	return i, err
}

// absent is what a guest is told of whatever is not its tenant's, there or not.
func absent(id string) error {
	return mvm.Errorf(mvm.KindNotFound, "instance %q "+guestproto.NotThere, display.Clip(id))
}

// counts reports whether the activity is of an instance that the routes lead to, and of
// its present boot.
func (h *Listener) counts(routes reach, act guestproto.Activity) bool {
	i, err := h.findID(act.InstanceID)
	return err == nil && routes.Name(i.Pool) && (act.Boot == 0 || act.Boot >= i.DiskGeneration)
}

func (h *Listener) findID(id string) (i mvm.Instance, err error) {
	err = h.in.opt.Store.View(func(tx *store.Tx) error {
		i, err = tx.Instance(id)
		return err
	})
	if mvm.IsKind(err, mvm.KindNotFound) || err == nil && i.Tenant != h.tenant {
		return mvm.Instance{}, absent(id)
	}
	return i, err
}

func (h *Listener) wakeInstance(ctx context.Context, n guestproto.InstanceName) guestproto.HostResponse {
	i, err := h.find(n)
	if err == nil {
		_, err = h.in.opt.Queue.Wake(ctx, i.ID, h.gatewayAsker(), "WakeInstance")
	}
	return guestproto.HostResponse{WakeResult: h.in.ack(err)}
}

func (h *Listener) queryStatus(n guestproto.InstanceName) guestproto.HostResponse {
	i, err := h.find(n)
	if err != nil {
		return refuse("%s", forGuest(err))
	}
	return guestproto.HostResponse{InstanceStatus: &guestproto.InstanceStatus{Status: i.State, GuestIP: i.IP, Boot: i.DiskGeneration}}
}

func (in *Ingress) ack(err error) *guestproto.Ack {
	if err == nil {
		return &guestproto.Ack{Success: true}
	}
	why := forGuest(err)
	return &guestproto.Ack{Detail: &why}
}

// forGuest is what a guest, and maybe a client of it, is told of an error: nothing of
// the host itself, whose log has it.
func forGuest(err error) string {
	if mvm.IsKind(err, mvm.KindInternal) {
		return "the host failed to do it; its log says why"
	}
	if mvm.IsHostFault(err) {
		return "the host can't wake it now; its log says why"
	}
	return display.Recordable(err)
}

// reported takes in what the guest of an instance tells by itself.
func (h *Listener) reported(st guestproto.Status) guestproto.HostResponse {
	i, err := h.findID(h.id)
	if err != nil {
		return refuse("%s", forGuest(err))
	}
	h.in.opt.Instances.Reported(i, st)
	return guestproto.HostResponse{HealthAck: true}
}

// resultOf says in a word how a guest's request was answered.
func resultOf(r guestproto.HostResponse) string {
	switch {
	case r.Error != nil:
		return "refused"
	case r.WakeResult != nil && !r.WakeResult.Success, r.AcquireResult != nil && !r.AcquireResult.Success:
		return "failed"
	}
	return "ok"
}
