// Package inbox keeps messages of chats on the disk of a gateway VM until they are
// delivered: those of platforms that do not keep a message once it is answered.
//
// What it promises:
//   - A message that Put kept is on the disk before Put returns. It stays until Done or
//     Drop, whatever crashes.
//   - A message is kept once. Its key is the channel and the platform's id; Put tells a
//     repeat, also one of a message that was delivered lately.
//   - Entries have numbers that grow in the order in which Put kept them and are never used
//     twice, not even after the file was damaged.
//   - All is bounded: messages, bytes, per chat and in total. What was set aside is kept
//     apart and bounded too.
//   - A damaged file is renamed and reported, and an empty one takes its place.
//   - Without calls it does nothing: no goroutine, no write.
//
// The file is a bbolt database:
//
//	heads   number (8 bytes, big endian) -> CRC-32C and JSON of a head
//	bodies  number                       -> the message's bytes
//	ids     channel 0x00 id              -> number: kept, or delivered lately
//	gone    time (8) number (8)          -> key in ids, of what is delivered, oldest first
//	last    channel 0x00 chat            -> the platform's id of its last message that was kept
//	owed    channel 0x00 chat            -> CRC-32C and JSON of a Debt
package inbox

import (
	"cmp"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
)

// Message is what a platform sent.
type Message struct {
	Channel string
	ID      string // the platform's, unique in the channel
	Chat    string
	Sender  string
	Type    string // content type of Body
	Body    []byte
	Urgent  bool // see Entry
	Track   bool // Last tells of it
}

// Entry is a kept message without its body, as it is in the file.
type Entry struct {
	Number   int64     `json:"number"`
	Channel  string    `json:"channel"`
	ID       string    `json:"id"`
	Chat     string    `json:"chat,omitempty"`
	Sender   string    `json:"sender,omitempty"`
	Type     string    `json:"type,omitempty"`
	Size     int       `json:"size"`
	Received time.Time `json:"received"`
	// Refusals and Errors count the answers of the worker that did not count as delivered.
	Refusals int       `json:"refusals,omitempty"`
	Errors   int       `json:"errors,omitempty"`
	Why      string    `json:"why,omitempty"`    // the last of them, or why it was set aside
	Aside    bool      `json:"aside,omitempty"`  // it is not delivered until Retry
	Changed  time.Time `json:"changed"`          // when one of these changed
	Urgent   bool      `json:"urgent,omitempty"` // it does not wait for the worker to become idle
}

// MaxWaiting is how many messages may wait by default.
const MaxWaiting = 10_000

// Limits bound an Inbox. A zero field means the default, which is in brackets.
type Limits struct {
	Body       int           // bytes of one message [1 MiB]
	ID         int           // bytes of an id, a chat or a sender [256]
	Messages   int           // that wait [10,000]
	Bytes      int64         // of their bodies [64 MiB]
	Chat       int           // messages of one chat that wait [100]
	ChatBytes  int64         // of their bodies [8 MiB]
	Aside      int           // messages that are set aside; the oldest goes first [1,000]
	AsideBytes int64         // of their bodies [16 MiB]
	Age        time.Duration // after which a message that waits is set aside [7 days]
	Remember   time.Duration // how long ids of delivered messages are known [7 days]
	Known      int           // of such ids [20,000]
}

func (l Limits) withDefaults() Limits {
	l.Body = cmp.Or(l.Body, 1<<20)
	l.ID = cmp.Or(l.ID, 256)
	l.Messages = cmp.Or(l.Messages, MaxWaiting)
	l.Bytes = cmp.Or(l.Bytes, 64<<20)
	l.Chat = cmp.Or(l.Chat, 100)
	l.ChatBytes = cmp.Or(l.ChatBytes, 8<<20)
	l.Aside = cmp.Or(l.Aside, 1000)
	l.AsideBytes = cmp.Or(l.AsideBytes, 16<<20)
	l.Age = cmp.Or(l.Age, 7*24*time.Hour)
	l.Remember = cmp.Or(l.Remember, 7*24*time.Hour)
	l.Known = cmp.Or(l.Known, 20_000)
	return l
}

// Options are what an Inbox works with. Only Log is required.
type Options struct {
	Log    *slog.Logger
	Limits Limits
	Now    func() time.Time
	// Damaged is called when Damage says something new, after Open has returned. It must not
	// wait for Close.
	Damaged func(text string)
}

// Inbox is an open inbox. Its methods may be called concurrently.
type Inbox struct {
	path  string
	log   *slog.Logger
	lim   Limits
	now   func() time.Time
	tell  func(damage string)
	group sync.WaitGroup

	queueMu sync.Mutex
	queue   []*op
	running bool // a goroutine commits the queue
	closed  bool

	mu       sync.Mutex // held by a commit, so that nobody sees what is not on the disk yet
	db       *bbolt.DB  // nil: closed, or to be opened again
	file     *os.File   // that of db
	stuck    bool       // the library has panicked, and may hold its locks
	reserved int64      // bytes of the file that have blocks
	damage   string
	entries  map[int64]*Entry
	waiting  tally
	aside    tally
	chats    map[chatKey]tally
	known    int // ids of what is delivered
}

// tally counts messages.
type tally struct {
	n     int
	bytes int64
}

type chatKey struct{ channel, chat string }

// Open opens the inbox at the path, and makes it where it is not there. A damaged one is
// set aside; see Damage.
func Open(path string, opt Options) (*Inbox, error) {
	b := &Inbox{path: path, log: opt.Log, lim: opt.Limits.withDefaults(), now: opt.Now, tell: opt.Damaged}
	if b.now == nil {
		b.now = time.Now
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b, b.open()
}

// Close waits for what is under way and closes the file. Closing twice is fine.
func (b *Inbox) Close() error {
	b.queueMu.Lock()
	b.closed = true
	b.queueMu.Unlock()
	b.group.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

// Damage says what happened to a damaged file since Open, "" where none was found.
func (b *Inbox) Damage() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.damage
}

// Entries lists what is kept, by number; of one channel, or of all where it is empty.
func (b *Inbox) Entries(channel string) []Entry { return b.After(channel, 0) }

// After is Entries of the numbers that are larger.
func (b *Inbox) After(channel string, number int64) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Entry
	for _, e := range b.entries {
		if e.Number > number && (channel == "" || e.Channel == channel) {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return int(a.Number - b.Number) })
	return out
}

// Entry returns one entry. KindNotFound: it is not kept, or not any more.
func (b *Inbox) Entry(number int64) (Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[number]
	if e == nil {
		return Entry{}, notKept(number)
	}
	return *e, nil
}

func notKept(number int64) error {
	return mvm.Errorf(mvm.KindNotFound, "the inbox has no message %d", number).
		WithFix("it may be delivered; list what is kept with: mvm inbox list TENANT")
}

// Count counts the messages that wait and those set aside.
func (b *Inbox) Count() (waiting, aside int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.n, b.aside.n
}

// errClosed answers calls after Close.
var errClosed = errors.New("the inbox is closed")
