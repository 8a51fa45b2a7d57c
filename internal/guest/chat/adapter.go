package chat

import (
	"context"
	"log/slog"
	"net/http"

	"mvm/internal/guestproto"
)

// Adapter is a channel at work.
type Adapter interface {
	// Status says how the channel is.
	Status() guestproto.ChannelStatus
	// Webhook serves what the platform sends, at the path; an empty path: nothing.
	Webhook() (path string, h http.Handler)
	// Proxy serves a worker's request to the platform. It reports false where the request
	// has no token of the channel, and then has written nothing.
	Proxy(w http.ResponseWriter, r *http.Request) bool
	// Close gives up what is not delivered, and waits for what the adapter started.
	Close()
}

// Inspector is an Adapter that can look at how its channel is, beyond its Status.
type Inspector interface {
	// Inspect asks the platform, or looks into the inbox. It changes nothing.
	Inspect(ctx context.Context) guestproto.ChannelCheck
}

// AdapterOptions are what an Adapter works with. All but Flood and Disk are required.
type AdapterOptions struct {
	Channel  guestproto.Channel
	Workers  Workers
	Recorder Recorder
	Log      *slog.Logger
	HTTP     *http.Client // to the platform; it follows no redirect
	Limits   Limits
	Changed  func() // Status says something else now
	Flood    *Flood // of all channels; nil: without bound
	Disk     Disk   // nil: there is none, or the channel does not need it
}

// States of a ChannelStatus.
const (
	StateStarting = "starting"
	StateReady    = "ready"
	StateFailing  = "failing"
)
