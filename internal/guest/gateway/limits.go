package gateway

import "time"

// Limits bound what a Router takes and how long it waits. A zero field means the
// default, which is in brackets.
type Limits struct {
	Conns          int // connections from outside at once; past it, accepting pauses [4096]
	ConnsPerSource int // of them from one source address [1024]

	Held          int           // requests and connections that wait for an instance [1024]
	HeldPerTarget int           // of them for the same one [256]
	Hold          time.Duration // how long each waits at most [60 s]

	Head       time.Duration // for a PROXY header, and for a request's head [10 s]
	HeadBytes  int           // of a request's head [64 KiB]
	Heads      int           // bytes of all heads at once, beyond what each connection has room for [16 MiB]
	ClientIdle time.Duration // between two requests of a connection [2 min]
	Body       time.Duration // in which no more of a request's body comes [60 s]
	Send       time.Duration // in which a client takes nothing of an answer [60 s]

	Silent time.Duration // for which an instance that is awake may acknowledge nothing [15 s]

	Late   time.Duration // without an answer, after which a new connection keeps others from beginning only while the gateway is busy [20 ms]
	Moment time.Duration // which a connection to an instance that may come free has, where four did so lately, before one more is made [20 ms]
	Turn   time.Duration // after which it does so no more in any case [80 ms]
	Watch  time.Duration // after which the end of a request's client is looked for [250 ms]

	Linger      time.Duration // to drop what a client sends that was refused [10 s]
	LingerBytes int           // of that [16 MiB]

	KeyBody     int           // bytes of a body in which a key is looked for [1 MiB]
	KeyBodies   int           // bytes of all such bodies at once [32 MiB]
	KeyBodyTime time.Duration // to receive such a body [30 s]

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

// maxFresh bounds the connections that are to have their first answer at once: about as
// many as there are pooled connections to pass their requests on.
const maxFresh = idlePerInstance

// maxIdle bounds the goroutines that wait for a connection to serve.
const maxIdle = maxFresh

// maxCalls bounds the questions to the host that are under way at once.
const maxCalls = 64

func (l Limits) withDefaults() Limits {
	or(&l.Conns, 4096)
	or(&l.ConnsPerSource, 1024)
	or(&l.Held, 1024)
	or(&l.HeldPerTarget, 256)
	or(&l.Hold, 60*time.Second)
	or(&l.Head, 10*time.Second)
	or(&l.HeadBytes, 64<<10)
	or(&l.Heads, 16<<20)
	or(&l.ClientIdle, 2*time.Minute)
	or(&l.Body, 60*time.Second)
	or(&l.Send, 60*time.Second)
	or(&l.Silent, 15*time.Second)
	or(&l.Late, 20*time.Millisecond)
	or(&l.Moment, 20*time.Millisecond)
	or(&l.Turn, 80*time.Millisecond)
	or(&l.Watch, 250*time.Millisecond)
	or(&l.Linger, 10*time.Second)
	or(&l.LingerBytes, 16<<20)
	or(&l.KeyBody, 1<<20)
	or(&l.KeyBodies, 32<<20)
	or(&l.KeyBodyTime, 30*time.Second)
	or(&l.Connect, 10*time.Second)
	or(&l.Refused, 5*time.Second)
	or(&l.Reconnect, 2*time.Second)
	or(&l.Dials, 4)
	or(&l.Idle, 25*time.Second)
	or(&l.IdleBrief, 4*time.Second)
	or(&l.Quiet, 5*time.Second)
	or(&l.Report, 3*time.Second)
	return l
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
