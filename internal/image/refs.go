package image

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"mvm/internal/sys"
)

// refEntry says which image a request gave. It is a hint: when the image is gone or the file
// unreadable, the image is built again.
type refEntry struct {
	Request
	Key    string    `json:"key"`
	Digest string    `json:"digest"`
	Built  time.Time `json:"built"`
}

// of reports whether the entry is one of the request. Entries of an older mvm name neither
// role nor architecture, and were for any.
func (e refEntry) of(req Request) bool {
	return e.Ref == req.Ref && (e.Arch == "" || e.id() == req.id())
}

func (s *DirStore) refPath(req Request, key string) string {
	return s.path("refs", hash(req.id()+"\x00"+key))
}

func readRef(path string) (refEntry, error) {
	var e refEntry
	b, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(b, &e)
}

// lookup returns the image that the plan gave before, if it is there and whole: for this
// request, or for another one of which the builder found the same.
func (s *DirStore) lookup(ctx context.Context, plan Plan) (Image, bool) {
	ref := plan.Request.Ref
	own, err := readRef(s.refPath(plan.Request, plan.Key))
	if err == nil && own.of(plan.Request) && own.Key == plan.Key {
		if img, ok := s.whole(ctx, own); ok {
			return img, true
		}
	}
	var found Image
	_ = s.eachRef(func(_ string, e refEntry) error { // what can't be read is built again
		if e.Ref == ref && e.Key == plan.Key && found.Digest == "" && e.Digest != own.Digest {
			found, _ = s.whole(ctx, e)
		}
		return nil
	})
	if found.Digest == "" {
		return Image{}, false
	}
	if err := s.record(plan, found); err != nil {
		s.log.Warn("record image", "ref", ref, "error", err)
	}
	return found, true
}

// whole returns the entry's image, unless it is gone or damaged.
func (s *DirStore) whole(ctx context.Context, e refEntry) (Image, bool) {
	img, err := s.Get(e.Digest)
	if err == nil {
		err = s.check(ctx, img)
	}
	if err != nil {
		s.log.Warn("image is built again", "ref", e.Ref, "error", err)
		return Image{}, false
	}
	return img, true
}

// record says that the plan gave the image, for later requests and for people.
func (s *DirStore) record(plan Plan, img Image) error {
	now := time.Now().UTC()
	from := Provenance{Version: 1, Request: plan.Request, Resolved: plan.Resolved, Key: plan.Key, Inputs: plan.Inputs, Built: now, Build: plan.Build, Log: plan.Log}
	if err := sys.WriteJSON(filepath.Join(img.Dir, ProvenanceName), from, 0o644); err != nil {
		return err
	}
	return sys.WriteJSON(s.refPath(plan.Request, plan.Key), refEntry{plan.Request, plan.Key, img.Digest, now}, 0o644)
}

// newest returns the image that the request gave last, whatever its key.
func (s *DirStore) newest(ctx context.Context, req Request) (img Image, ok bool) {
	var last time.Time
	_ = s.eachRef(func(_ string, e refEntry) error {
		if !e.of(req) || !e.Built.After(last) {
			return nil
		}
		if i, err := s.Get(e.Digest); err == nil && s.check(ctx, i) == nil {
			img, ok, last = i, true, e.Built
		}
		return nil
	})
	return img, ok
}

// eachRef calls fn for every entry, with an empty one where it can't be read.
func (s *DirStore) eachRef(fn func(path string, e refEntry) error) error {
	entries, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range entries {
		path := filepath.Join(s.path("refs"), d.Name())
		e, err := readRef(path)
		if err != nil {
			e = refEntry{}
		}
		errs = append(errs, fn(path, e))
	}
	return errors.Join(errs...)
}
