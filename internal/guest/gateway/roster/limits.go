package roster

import (
	"cmp"
	"time"
)

// Limits bound what a roster takes and how long it waits. A zero field means the
// default, which is in brackets.
type Limits struct {
	Held          int           // requests and connections that wait for an instance [1024]
	HeldPerTarget int           // of them for the same one [256]
	Hold          time.Duration // how long each waits at most [60 s]

	Silent time.Duration // for which an instance that is awake may acknowledge nothing [15 s]
	Moment time.Duration // which a connection to an instance that may come free has, where four did so lately, before one more is made [20 ms]

	Connect   time.Duration // to connect to an instance that was just woken [10 s]
	Refused   time.Duration // of that, while its port is not open yet [5 s]
	Reconnect time.Duration // to connect to one that took connections before [2 s]
	Dials     int           // connections to one port of an instance that are being made at once [4]

	// How long a connection to an instance is kept that nothing uses. A request that may be
	// sent twice uses any of them: a close that is on its way costs it a second try. Others use
	// one that was idle for less than the 5 s after which common servers close theirs.
	Idle      time.Duration // [25 s], less than the 30 s after which it is probed
	IdleBrief time.Duration // after which only requests use it that may be sent twice [4 s]

	Quiet  time.Duration // without bytes, after which a stream isn't active any more [5 s]
	Report time.Duration // between two reports of activity [3 s]
}

// maxCalls bounds the questions to the host that are under way at once.
const maxCalls = 64

func (l Limits) withDefaults() Limits {
	l.Held = cmp.Or(l.Held, 1024)
	l.HeldPerTarget = cmp.Or(l.HeldPerTarget, 256)
	l.Hold = cmp.Or(l.Hold, 60*time.Second)
	l.Silent = cmp.Or(l.Silent, 15*time.Second)
	l.Moment = cmp.Or(l.Moment, 20*time.Millisecond)
	l.Connect = cmp.Or(l.Connect, 10*time.Second)
	l.Refused = cmp.Or(l.Refused, 5*time.Second)
	l.Reconnect = cmp.Or(l.Reconnect, 2*time.Second)
	l.Dials = cmp.Or(l.Dials, 4)
	l.Idle = cmp.Or(l.Idle, 25*time.Second)
	l.IdleBrief = cmp.Or(l.IdleBrief, 4*time.Second)
	l.Quiet = cmp.Or(l.Quiet, 5*time.Second)
	l.Report = cmp.Or(l.Report, 3*time.Second)
	return l
}
