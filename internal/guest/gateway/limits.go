package gateway

import (
	"cmp"
	"mvm/internal/guest/gateway/roster"
	"time"
)

// Limits bound what a Router takes and how long it waits. A zero field means the
// default, which is in brackets.
type Limits struct {
	Roster roster.Limits // of instances: who waits for them, and connections to them

	Conns          int // connections from outside at once; past it, accepting pauses [4096]
	ConnsPerSource int // of them from one source address [1024]

	Head       time.Duration // for a PROXY header, and for a request's head [10 s]
	HeadBytes  int           // of a request's head [64 KiB]
	Heads      int           // bytes of all heads at once, beyond what each connection has room for [16 MiB]
	ClientIdle time.Duration // between two requests of a connection [2 min]
	Body       time.Duration // in which no more of a request's body comes [60 s]
	Send       time.Duration // in which a client takes nothing of an answer [60 s]

	Late  time.Duration // without an answer, after which a new connection keeps others from beginning only while the gateway is busy [20 ms]
	Turn  time.Duration // after which it does so no more in any case [80 ms]
	Watch time.Duration // after which the end of a request's client is looked for [250 ms]

	Linger      time.Duration // to drop what a client sends that was refused [10 s]
	LingerBytes int           // of that [16 MiB]

	KeyBody     int           // bytes of a body in which a key is looked for [1 MiB]
	KeyBodies   int           // bytes of all such bodies at once [32 MiB]
	KeyBodyTime time.Duration // to receive such a body [30 s]
}

// maxFresh bounds the connections that are to have their first answer at once: about as
// many as there are pooled connections to pass their requests on.
const maxFresh = roster.IdlePerInstance

// maxIdle bounds the goroutines that wait for a connection to serve.
const maxIdle = maxFresh

func (l Limits) withDefaults() Limits {
	l.Conns = cmp.Or(l.Conns, 4096)
	l.ConnsPerSource = cmp.Or(l.ConnsPerSource, 1024)
	l.Head = cmp.Or(l.Head, 10*time.Second)
	l.HeadBytes = cmp.Or(l.HeadBytes, 64<<10)
	l.Heads = cmp.Or(l.Heads, 16<<20)
	l.ClientIdle = cmp.Or(l.ClientIdle, 2*time.Minute)
	l.Body = cmp.Or(l.Body, 60*time.Second)
	l.Send = cmp.Or(l.Send, 60*time.Second)
	l.Late = cmp.Or(l.Late, 20*time.Millisecond)
	l.Turn = cmp.Or(l.Turn, 80*time.Millisecond)
	l.Watch = cmp.Or(l.Watch, 250*time.Millisecond)
	l.Linger = cmp.Or(l.Linger, 10*time.Second)
	l.LingerBytes = cmp.Or(l.LingerBytes, 16<<20)
	l.KeyBody = cmp.Or(l.KeyBody, 1<<20)
	l.KeyBodies = cmp.Or(l.KeyBodies, 32<<20)
	l.KeyBodyTime = cmp.Or(l.KeyBodyTime, 30*time.Second)
	return l
}
