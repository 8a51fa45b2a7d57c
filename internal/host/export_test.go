package host

import "mvm/internal/publish"

// NewLogger is what agent and hostd log with.
var NewLogger = newLogger

// FDStore is systemd's store behind a notify socket.
func FDStore(socket string) publish.Keeper { return &fdStore{socket} }
