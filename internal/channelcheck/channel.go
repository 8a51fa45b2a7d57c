package channelcheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// Bounds of what counts as wrong.
const (
	oldMessage  = time.Minute      // a message that waits for longer is told
	webhookOver = 10 * time.Minute // a failed delivery before that is over
)

// records checks what is on record of a channel.
func (l *look) records(p mvm.Pool, c mvm.Channel, where string) {
	for _, s := range c.Secrets() {
		if !slices.Contains(l.tenant.SecretNames, s) {
			l.add(failure, "the tenant has no secret "+s, where, "mvm tenant secrets set "+l.tenant.ID+" "+s+"=@FILE")
		}
	}
	l.senders(c, where)
	if !slices.ContainsFunc(l.pools, func(to mvm.Pool) bool { return to.Spec.ID == c.To.PoolID }) {
		l.add(failure, "the tenant has no pool "+c.To.PoolID+", to which messages go", where, "create the pool, or change the channel's target")
	}
	if port := c.Port; port != 0 {
		l.published(p, port, where)
	}
}

// senders checks who may write.
func (l *look) senders(c mvm.Channel, where string) {
	person := func(id string) bool { return !strings.HasPrefix(id, "-") }
	switch {
	case len(c.Allow) == 0:
		l.add(failure, "allow is empty, so no message is delivered", where, "list the ids of senders in the channel's allow")
	case c.Open():
		l.add(warning, "everybody may write, and use the assistant", where, "list the ids of senders in the channel's allow")
	case c.Kind != mvm.ChannelTelegram:
		l.add(fine, fmt.Sprintf("%d ids in allow", len(c.Allow)), where, "")
	case !slices.ContainsFunc(c.Allow, person):
		l.add(failure, "allow lists groups only and no person, so no message is delivered, and the assistant has no owner", where, "add the numeric ids of the people who may write; the first one is the owner")
	default:
		l.add(fine, fmt.Sprintf("%d ids in allow; the owner is %s", len(c.Allow), c.Allow[slices.IndexFunc(c.Allow, person)]), where, "")
	}
}

// published checks that the platform can reach the gateway's port.
func (l *look) published(p mvm.Pool, port int, where string) {
	n := slices.IndexFunc(p.Spec.Publish, func(pub mvm.Publish) bool { return pub.Guest == port })
	switch {
	case n < 0:
		l.add(failure, fmt.Sprintf("port %d of the gateway is not published, so the platform can't reach it", port), where,
			"add to the gateway pool: publish = [\"127.0.0.1:"+strconv.Itoa(port)+":"+strconv.Itoa(port)+"\"]")
	case n >= len(p.Bound) || !p.Bound[n].IsValid():
		what := "port " + p.Spec.Publish[n].Place() + " is not published"
		if p.Unpublished != "" {
			what += ": " + p.Unpublished
		}
		l.add(failure, what, where, "free the address for the agent, which tries every few seconds, or change the pool's publish")
	default:
		l.add(fine, "messages arrive at "+p.Bound[n].String(), where, "")
	}
}

// said tells what the gateway says of a channel.
func (l *look) said(c mvm.Channel, says map[string]guestproto.ChannelCheck, where string) {
	got, ok := says[c.Name]
	if !ok {
		l.add(warning, "the gateway does not have the channel yet", where, "run the command again; if it stays so, see `mvm why` of the gateway")
		return
	}
	what := string(c.Kind)
	if got.Bot != "" {
		what += " " + display.ClipTo(maxWord, got.Bot)
	}
	detail := ""
	if got.Detail != "" {
		detail = ": " + display.Clip(got.Detail)
	}
	counts := fmt.Sprintf("; since its start %d accepted, %d refused, %d set aside", max(got.Accepted, 0), max(got.Refused, 0), max(got.SetAside, 0))
	switch got.State {
	case string(mvm.HealthReady):
		l.add(fine, what+" is ready"+detail+counts, where, "")
	case string(mvm.HealthFailing):
		l.add(failure, what+" fails"+detail+counts, where, `see "When a bot does not answer" in docs/`+page(c.Kind)+".md")
	default:
		l.add(warning, what+" is starting"+detail, where, "run the command again")
	}
	if got.Waiting > 0 {
		l.add(fine, plural(got.Waiting, "message")+" on the way to workers", where, "")
	}
	if got.Platform != nil {
		l.platform(c, *got.Platform, where)
	}
	if got.Inbox != nil {
		l.inbox(*got.Inbox, where)
	}
}

// page is the page about the kind.
func page(kind mvm.ChannelKind) string {
	if kind == mvm.ChannelDiscord {
		return "discord"
	}
	return "chat"
}

// maxWord bounds names of guests.
const maxWord = 64

// platform tells what the platform says of the bot.
func (l *look) platform(c mvm.Channel, p guestproto.PlatformCheck, where string) {
	why := ""
	if p.Detail != "" {
		why = ": " + display.Clip(p.Detail)
	}
	switch p.Result {
	case guestproto.PlatformOK:
		l.add(fine, fmt.Sprintf("the token is valid; %s answered the gateway in %d ms", c.Kind, max(p.TookMS, 0)), where, "")
	case guestproto.PlatformToken:
		l.add(failure, "the token is not valid"+why, where, "mvm tenant secrets set "+l.tenant.ID+" "+c.Secret+"=@FILE, with the token that the platform shows")
		return
	case guestproto.PlatformUnreachable:
		l.add(failure, "the gateway can't reach the platform"+why, where, "check the firewall, NAT and DNS of the host; the gateway retries")
		return
	case guestproto.PlatformLimited:
		l.add(warning, "the platform limits requests"+why, where, "wait; the gateway tries again")
		return
	default:
		l.add(failure, "the platform answers with an error"+why, where, "run the command again later; the gateway retries")
		return
	}
	if c.Kind != mvm.ChannelTelegram {
		return // which has no webhooks, and no second receiver
	}
	if p.Conflict {
		l.add(failure, "another program receives this bot's messages", where, "end the other program, or give it a bot of its own")
	}
	l.webhook(c, p, where)
	if p.Pending > 0 {
		l.add(fine, plural(p.Pending, "message")+" kept at the platform until delivered", where, "")
	}
}

// webhook checks where the platform delivers to.
func (l *look) webhook(c mvm.Channel, p guestproto.PlatformCheck, where string) {
	at := display.Clip(p.Webhook)
	switch {
	case c.Polls() && p.Webhook != "":
		l.add(failure, "a webhook is set at the platform, to "+at, where, "end the program that sets it; the gateway removes the webhook when it polls next")
	case !c.Polls() && p.Webhook == "":
		l.add(failure, "no webhook is set at the platform", where, "end other programs that use this bot; the gateway sets it again within 10 minutes")
	case !c.Polls() && p.Webhook != c.URL:
		l.add(failure, "the platform delivers to "+at+", not to "+c.URL, where, "end the program that sets it; the gateway sets its own address again within 10 minutes")
	case !c.Polls() && p.WebhookFailed != nil && l.now.Sub(*p.WebhookFailed) < webhookOver:
		l.add(failure, "the platform could not deliver "+c.URL+" "+ago(l.now, *p.WebhookFailed)+" ago: "+display.Clip(p.WebhookError), where, "check the reverse proxy, its certificate and the published port")
	case !c.Polls():
		l.add(fine, "the platform delivers to "+c.URL, where, "")
	}
}

// inbox tells what the gateway keeps.
func (l *look) inbox(k guestproto.InboxCheck, where string) {
	list := "mvm inbox list " + l.tenant.ID
	if k.Problem != "" {
		l.add(failure, "the inbox can't be used: "+display.Clip(k.Problem), where, "mvm logs of the gateway says more")
		return
	}
	if k.Damage != "" {
		l.add(warning, display.Clip(k.Damage), where, "nothing has to be done; docs/inbox.md says where the old file is")
	}
	switch {
	case k.Waiting > 0 && k.Oldest != nil && l.now.Sub(*k.Oldest) > oldMessage:
		l.add(warning, fmt.Sprintf("%s in the inbox; the oldest has waited for %s", plural(k.Waiting, "message"), ago(l.now, *k.Oldest)), where, "see why with: "+list)
	case k.Aside <= 0:
		l.add(fine, plural(max(k.Waiting, 0), "message")+" in the inbox", where, "")
	}
	if k.Aside > 0 {
		l.add(warning, plural(k.Aside, "message")+" set aside, because the worker did not take them", where, list+", then `mvm inbox retry` or `mvm inbox drop`")
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// ago is how long ago that was, roughly.
func ago(now, at time.Time) string { return max(now.Sub(at), 0).Round(time.Second).String() }
