package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	slots      = 1024 // of the rings in the file and in memory
	recordSize = 64
	pageSize   = 4096
	syncEvery  = 64
	pause      = 2 * time.Millisecond
	maxFaults  = 16
)

// writer counts, and writes every number to its slot of a file and of memory, after
// it has looked whether the number that was there is still whole.
type writer struct {
	mu     sync.Mutex
	file   *os.File
	memory []byte
	seq    uint64 // the last number written
	faults []string
}

// Report is what /check answers.
type Report struct {
	Seq    uint64   `json:"seq"`
	PID    int      `json:"pid"`
	BootID string   `json:"boot_id"`
	Start  int64    `json:"start"` // of the process, Unix nanoseconds
	Faults []string `json:"faults"`
}

func newWriter(path string) (*writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &writer{file: f, memory: make([]byte, slots*pageSize)}, nil
}

func (w *writer) run() {
	for {
		w.mu.Lock()
		w.step()
		w.mu.Unlock()
		time.Sleep(pause)
	}
}

// step checks the slot of the next number and writes the number to it.
func (w *writer) step() {
	next := w.seq + 1
	w.checkSlot(next % slots)
	if _, err := w.file.WriteAt(record(next), int64(next%slots)*recordSize); err != nil {
		w.fault("write %d: %v", next, err)
	}
	if next%syncEvery == 0 {
		if err := w.file.Sync(); err != nil {
			w.fault("sync %d: %v", next, err)
		}
	}
	copy(w.page(next%slots), page(next))
	w.seq = next
}

// checkSlot looks whether the slot holds the newest of its numbers in file and memory.
func (w *writer) checkSlot(slot uint64) {
	want := w.seq - (w.seq-slot)%slots
	if slot > w.seq || want == 0 {
		return // nothing was written there yet
	}
	var got [recordSize]byte
	if _, err := w.file.ReadAt(got[:], int64(slot)*recordSize); err != nil {
		w.fault("read %d: %v", want, err)
	} else if string(got[:]) != string(record(want)) {
		w.fault("file: %d is lost, there is %x", want, got[:16])
	}
	if string(w.page(slot)) != string(page(want)) {
		w.fault("memory: %d is lost", want)
	}
}

func (w *writer) page(slot uint64) []byte { return w.memory[slot*pageSize : (slot+1)*pageSize] }

func (w *writer) fault(format string, args ...any) {
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// record is the number with a checksum over a whole record.
func record(n uint64) []byte {
	b := make([]byte, recordSize)
	binary.BigEndian.PutUint64(b, n)
	for i := 8; i < recordSize-4; i++ {
		b[i] = byte(n >> (i % 8))
	}
	binary.BigEndian.PutUint32(b[recordSize-4:], crc32.ChecksumIEEE(b[:recordSize-4]))
	return b
}

func page(n uint64) []byte {
	b := make([]byte, pageSize)
	for i := 0; i < pageSize; i += 8 {
		binary.BigEndian.PutUint64(b[i:], n*0x9e3779b97f4a7c15+uint64(i))
	}
	return b
}

// check looks at every slot and tells how far the writer is.
func (s *server) check(rw http.ResponseWriter, _ *http.Request) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	w := s.writer
	w.mu.Lock()
	for slot := range uint64(slots) {
		w.checkSlot(slot)
	}
	r := Report{Seq: w.seq, PID: os.Getpid(), BootID: strings.TrimSpace(string(boot)), Start: s.started.UnixNano(), Faults: w.faults}
	w.mu.Unlock()
	if err := json.NewEncoder(rw).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
	}
}
