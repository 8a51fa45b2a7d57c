package chat

import (
	"slices"

	"mvm"
)

// Why a message is not delivered that its origin forbids.
const (
	WhyNotAllowed = "its sender or group is not in the channel's allow"
	WhyTooManyNew = "too many new chats at once"
)

// Allowed reports whether the channel delivers what the sender wrote in the chat: in a group
// both the sender, if the message has one, and the group have to be listed. "" is an id that
// the message does not have.
func Allowed(c mvm.Channel, sender, in string, group bool) bool {
	switch {
	case c.Open():
		return true
	case group && !slices.Contains(c.Allow, in):
		return false
	case sender == "":
		return group
	}
	return slices.Contains(c.Allow, sender)
}

// KeyOf is the key of the worker for a message of the sender in the chat.
func KeyOf(c mvm.Channel, sender, in string) string {
	if key, ok := c.To.Selector.Fixed(); ok {
		return key
	}
	switch c.To.Selector.From {
	case mvm.KeyFromChat:
		return in
	case mvm.KeyFromSender:
		return sender
	}
	return ""
}
