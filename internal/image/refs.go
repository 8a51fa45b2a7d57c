package image

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// refEntry says which image a reference gave. It is a hint: when the image is gone
// or the file unreadable, the image is built again.
type refEntry struct {
	Ref    string    `json:"ref"`
	Key    string    `json:"key"`
	Digest string    `json:"digest"`
	Built  time.Time `json:"built"`
}

func (s *DirStore) refPath(ref, key string) string {
	return s.path("refs", hash(ref+"\x00"+key))
}

func readRef(path string) (refEntry, error) {
	var e refEntry
	b, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(b, &e)
}

// lookup returns the image that ref gave with the key, if it is there and whole.
func (s *DirStore) lookup(ctx context.Context, ref, key string) (Image, bool) {
	e, err := readRef(s.refPath(ref, key))
	if err != nil || e.Ref != ref || e.Key != key {
		return Image{}, false
	}
	img, err := s.Get(e.Digest)
	if err == nil {
		err = s.check(ctx, img)
	}
	if err != nil {
		s.log.Warn("image is built again", "ref", ref, "error", err)
		return Image{}, false
	}
	return img, true
}

// newest returns the image that ref gave last, whatever its key.
func (s *DirStore) newest(ctx context.Context, ref string) (img Image, ok bool) {
	var last time.Time
	_ = s.eachRef(func(_ string, e refEntry) error {
		if e.Ref != ref || !e.Built.After(last) {
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
