package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

func addEvents(s *store.Store) error {
	return s.Update(func(tx *store.Tx) error {
		_, err := tx.AppendEvent(mvm.Event{Detail: strings.Repeat("x", 20_000)})
		return err
	})
}

func TestFullDiskFailsCleanlyAndRecovers(t *testing.T) {
	dir := testenv.SmallDisk(t, 2048)
	s, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var good uint64
	for err == nil {
		if err = addEvents(s); err == nil {
			good++
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free space") {
		t.Errorf("got %v, want it to say that the disk is full and what to do", err)
	}
	for range 3 {
		if err := addEvents(s); err == nil {
			t.Error("an Update went well on a full disk")
		}
	}
	view(t, s, func(tx *store.Tx) error {
		last, err := tx.TailEvents(mvm.EventFilter{}, 1, 0)
		if len(last) != 1 || last[0].Seq != good {
			t.Errorf("got %v, want event %d to be the last", seqs(last), good)
		}
		return errors.Join(err, tx.Check())
	})
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=8192k"); err != nil {
		t.Fatal(err)
	}
	if err := addEvents(s); err != nil {
		t.Errorf("after there is space again: %v", err)
	}
}

func TestReserveLetsTheAgentGoOnWhenOthersFillTheDisk(t *testing.T) {
	dir := testenv.SmallDisk(t, 16<<10)
	s, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = filler.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for range 100 {
		if err := addEvents(s); err != nil {
			t.Fatalf("with a reserve of its own the state can be written: %v", err)
		}
	}
}
