package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mvm/test/botapi"
)

const (
	botUser     = 7                // who writes to the bot
	botPatience = 10 * time.Minute // for what the bot sends: without KVM a turn takes seconds
	remindIn    = 30 * time.Second
)

// botConfig is what a bot adds to the template's config. Its assistant is the one of the
// chat before.
func (d *demo) botConfig() string {
	return fmt.Sprintf("telegram_token = { file = \"./secrets/telegram_token\" }\n\n[channels.telegram]\nallow = [\"%d\"]\n"+
		"api_root = \"http://host.mvm.internal:%d\"\ntarget = { instance_selector = { by_key = { from = \"fixed:%s\" } } }\n", botUser, d.botPort, d.tenant)
}

// say sends a message to the bot, and returns how long the bot took to answer.
func (d *demo) say(ctx context.Context, text string) (time.Duration, error) {
	began, before, typed := time.Now(), len(d.bot.Sent()), len(d.bot.Calls("sendChatAction"))
	d.bot.Write(botUser, botUser, text)
	answer, err := d.sent(ctx, before, text)
	if err != nil {
		return 0, err
	}
	typing := ""
	if calls := d.bot.Calls("sendChatAction"); len(calls) > typed {
		typing = fmt.Sprintf("typing after %s, ", calls[typed].At.Sub(began).Round(time.Millisecond))
	}
	took := answer.At.Sub(began)
	fmt.Fprintf(d.out, "   you, to the bot: %s\n   the bot: %s\n   %sanswered after %s\n", text, answer.Text, typing, took.Round(time.Millisecond))
	return took, nil
}

// sent waits for the message that the bot sends after so many. The stub model's has the text.
func (d *demo) sent(ctx context.Context, after int, text string) (botapi.Sent, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, botPatience, errors.New("the bot sent nothing in time; see `"+d.shown+" doctor --tenant "+d.tenant+"`"))
	defer cancel()
	for {
		for _, s := range d.bot.Sent()[after:] {
			if s.Chat == botUser && (!d.stub || strings.Contains(s.Text, text)) {
				return s, nil
			}
		}
		select {
		case <-ctx.Done():
			return botapi.Sent{}, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// messageWakes shows that a message to the bot wakes the assistant.
func (d *demo) messageWakes(ctx context.Context) (err error) {
	if err := d.sleep(ctx); err != nil {
		return err
	}
	d.turn, err = d.say(ctx, "are you awake?")
	return err
}

// reminderWakes shows that a reminder wakes the assistant in time. On a slow host the reminder
// may come before the assistant sleeps: then another one is set.
func (d *demo) reminderWakes(ctx context.Context) error {
	for in := remindIn + 3*d.turn; ; in *= 2 {
		if _, err := d.say(ctx, fmt.Sprintf("remind me in %d seconds to drink water", int(in.Seconds()))); err != nil {
			return err
		}
		before := len(d.bot.Sent())
		if err := d.sleep(ctx); err != nil {
			return err
		}
		var i struct {
			State    string    `json:"state"`
			NextWake time.Time `json:"next_wake"`
		}
		if err := d.json(ctx, &i, "instance", "info", d.worker()); err != nil {
			return err
		}
		if due := i.NextWake; time.Until(due) > 0 {
			fmt.Fprintf(d.out, "   it is %s; its next wake is at %s\n", i.State, due.Local().Format(time.TimeOnly))
			return d.reminded(ctx, before, due)
		}
		if in > 4*botPatience {
			return errors.New("the assistant has set no next wake")
		}
	}
}

// reminded waits for the reminder.
func (d *demo) reminded(ctx context.Context, before int, due time.Time) error {
	got, err := d.sent(ctx, before, "it is time to drink water")
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "   the bot: %s\n   sent %s after it was due\n", got.Text, got.At.Sub(due).Round(time.Millisecond))
	return d.why(ctx, "-n", "1")
}
