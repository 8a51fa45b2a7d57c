package guest

import (
	"context"
	"errors"
	"time"

	"mvm/internal/guestproto"
)

// answer does what a request asks for.
func (a *Agent) answer(ctx context.Context, req guestproto.Request, arrived time.Time) guestproto.Response {
	switch {
	case req.Ping:
		return guestproto.Response{Pong: true}
	case req.WorkerStatus:
		s := a.workerStatus(ctx)
		return guestproto.Response{WorkerStatus: &s}
	case req.Wake:
		return a.answerWake(ctx)
	case req.IntegrationStatus:
		r := a.integrations.report()
		return guestproto.Response{IntegrationStatusReport: &r}
	case req.SleepPrep != nil:
		return a.answerSleepPrep(ctx, *req.SleepPrep)
	case req.CheckpointIntegrations != nil:
		r := a.integrations.checkpoint(ctx, req.CheckpointIntegrations.Integrations)
		return guestproto.Response{CheckpointResult: &r}
	case req.AdjustClock != nil:
		return a.answerAdjustClock(*req.AdjustClock)
	case req.Status:
		s := a.status()
		return guestproto.Response{Status: &s}
	case req.Fence != nil:
		return a.answerFence(*req.Fence)
	case req.Peers:
		return a.answerPeers()
	case req.Suspend != nil:
		return a.answerSuspend(ctx, *req.Suspend)
	case req.Settle:
		return a.answerSettle(ctx)
	case req.Preflight:
		return a.answerPreflight(ctx)
	case req.Sync:
		return guestproto.Response{SyncAck: ack(a.sys.SyncFolder(a.dataFolder()))}
	case req.Inbox != nil && a.inbox != nil:
		r := a.inbox(*req.Inbox)
		return guestproto.Response{InboxReport: &r}
	case req.CheckChannels && a.checks != nil:
		c := a.checks(ctx)
		return guestproto.Response{ChannelChecks: &c}
	case req.CallHost:
		return guestproto.Response{CallHostAck: ack(a.callHost(ctx))}
	}
	return errorResponse(errors.New("the guest agent can't do " + guestproto.Variant(req)))
}

// callHostTimeout bounds a try to reach the host.
const callHostTimeout = 5 * time.Second

// callHost asks the host something. Any answer will do, a refusal too.
func (a *Agent) callHost(ctx context.Context) error {
	if a.health.host == nil {
		return errors.New("this guest has no way to its host")
	}
	ctx, cancel := context.WithTimeout(ctx, callHostTimeout)
	defer cancel()
	_, err := a.health.host.Call(ctx, guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{}})
	if _, answered := errors.AsType[*guestproto.RemoteError](err); answered {
		return nil
	}
	return err
}

// errorResponse is the answer to what can't be done.
func errorResponse(err error) guestproto.Response {
	return guestproto.Response{Error: &guestproto.Error{Message: err.Error()}}
}

// ack is the result of something that may have failed.
func ack(err error) *guestproto.Ack {
	if err == nil {
		return &guestproto.Ack{Success: true}
	}
	detail := err.Error()
	return &guestproto.Ack{Detail: &detail}
}

func (a *Agent) answerWake(ctx context.Context) guestproto.Response {
	err := a.integrations.restore(ctx)
	return guestproto.Response{WakeAck: &guestproto.WakeAck{Success: err == nil}}
}

func (a *Agent) answerSleepPrep(ctx context.Context, p guestproto.SleepPrep) guestproto.Response {
	timeout := min(time.Duration(max(p.DrainTimeoutSecs, 0))*time.Second, maxDrain)
	result := ack(a.sleepPrep(ctx, timeout))
	a.nextWake.read()
	return guestproto.Response{SleepPrepAck: &guestproto.SleepPrepAck{Success: result.Success, Detail: result.Detail, NextWake: a.nextWake.at()}}
}

// answerConfigure returns the answer and, for the log, what failed.
func (a *Agent) answerConfigure(ctx context.Context, c guestproto.Configure, arrived time.Time) (guestproto.Response, error) {
	a.configuring.Lock()
	defer a.configuring.Unlock()
	err := a.configure(ctx, c, arrived)
	bootID, bootErr := a.sys.BootID()
	if err == nil {
		err = bootErr
	}
	if err == nil {
		a.mu.Lock()
		a.configured, a.env = true, c.Env
		a.mu.Unlock()
		a.readiness()
	}
	result := ack(err)
	return guestproto.Response{ConfigureAck: &guestproto.ConfigureAck{Success: result.Success, Detail: result.Detail,
		Generation: c.Generation, BootID: bootID, UnixNanos: time.Now().UnixNano(),
		Suspends: a.suspension.any(), Settling: err == nil && a.beginSettling(c.Reason)}}, err
}

// beginSettling has services go on after a wake, and told of new secrets, while the
// host does other things. It reports whether there is something to wait for.
func (a *Agent) beginSettling(reason string) bool {
	switch {
	case reason != "update" && a.suspension.anyHeld():
		a.goBackground(a.settler.wake)
	case !a.settler.anyDue():
		return false
	case reason == "update":
		a.goBackground(a.settler.tellSoon)
	default:
		a.goBackground(a.settler.wake)
	}
	return true
}

// afterConfigure does what a wake does not have to wait for.
func (a *Agent) afterConfigure(c guestproto.Configure, err error, took time.Duration) {
	if err != nil {
		a.log.Error("configure", "reason", c.Reason, "error", err)
		return
	}
	if c.Net != nil {
		if err := a.sys.Announce(); err != nil {
			a.log.Warn("announce", "error", err)
		}
	}
	a.log.Info("configured", "reason", c.Reason, "instance", c.InstanceID, "generation", c.Generation, "took", took)
	a.log.Quiet()
}

func (a *Agent) answerAdjustClock(c guestproto.AdjustClock) guestproto.Response {
	if c.OffsetNanos != 0 {
		if err := a.sys.StepClock(time.Duration(c.OffsetNanos)); err != nil {
			return errorResponse(err)
		}
	}
	return guestproto.Response{ClockAck: &guestproto.ClockAck{UnixNanos: time.Now().UnixNano()}}
}

func (a *Agent) answerFence(f guestproto.Fence) guestproto.Response {
	if a.router == nil {
		return errorResponse(errors.New("fence: this guest has no gateway role"))
	}
	ack := guestproto.FenceAck{ActiveRequests: a.router.Fence(f)}
	ack.Open, ack.LastActive = a.router.Use(f.InstanceID)
	return guestproto.Response{FenceAck: &ack}
}

func (a *Agent) answerPeers() guestproto.Response {
	if a.router == nil {
		return errorResponse(errors.New("peers: this guest has no gateway role"))
	}
	p := a.router.Peers()
	return guestproto.Response{Peers: &p}
}
