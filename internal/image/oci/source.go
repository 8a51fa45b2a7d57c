package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"mvm"
)

// Bounds of what describes an image.
const (
	maxManifest = 4 << 20
	maxConfig   = 4 << 20
	maxLayers   = 500
	maxBlob     = 32 << 30
	maxNested   = 4
	maxImages   = 10_000 // in one index
)

// source is where an image is read from.
type source interface {
	// top returns the manifest or index that the reference names, or the image itself
	// where the source has neither.
	top(ctx context.Context) ([]byte, *pulled, error)
	// manifest returns a manifest of an index.
	manifest(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// blob returns a blob of a manifest. Who reads it compares it with its digest.
	blob(ctx context.Context, l layer) (io.ReadCloser, error)
	Close() error
}

// pulled is an image whose manifest and configuration were read, and compared with their
// digests; not so its layers.
type pulled struct {
	digest string // of the manifest, or the configuration where there is none
	config v1.ConfigFile
	layers []layer
}

type layer struct {
	v1.Descriptor        // its Digest is zero where the source does not say it
	DiffID        string // of what it unpacks to
	name          string // in an archive of docker save
}

// pull reads all of an image but its layers.
func pull(ctx context.Context, src source, arch string) (*pulled, error) {
	raw, whole, err := src.top(ctx)
	if err != nil {
		return nil, err
	}
	if whole != nil {
		return whole, whole.check(arch)
	}
	for range maxNested {
		var m struct {
			MediaType types.MediaType   `json:"mediaType"`
			Manifests []v1.Descriptor   `json:"manifests"`
			Layers    []json.RawMessage `json:"layers"`
			FSLayers  []json.RawMessage `json:"fsLayers"`
		}
		if err := decode(raw, &m); err != nil {
			return nil, invalid("read manifest: %w", err)
		}
		if len(m.FSLayers) > 0 {
			return nil, invalid("its manifest is of the old version 1").WithFix("push the image again with a current tool")
		}
		if len(m.Manifests) == 0 {
			p, err := fromManifest(ctx, src, raw)
			if err != nil {
				return nil, err
			}
			return p, p.check(arch)
		}
		d, err := pick(m.Manifests, arch)
		if err != nil {
			return nil, err
		}
		if raw, err = src.manifest(ctx, d); err != nil {
			return nil, err
		}
		if err := compare("manifest", raw, d.Digest); err != nil {
			return nil, err
		}
	}
	return nil, invalid("its indexes are nested more than %d deep", maxNested)
}

// pick chooses the image for the machines that guests are.
func pick(all []v1.Descriptor, arch string) (v1.Descriptor, error) {
	var found []string
	if len(all) > maxImages {
		return v1.Descriptor{}, invalid("its index has %d entries, more than %d", len(all), maxImages)
	}
	for _, d := range all {
		p := d.Platform
		if p == nil && len(all) == 1 || p != nil && p.OS == "linux" && p.Architecture == arch {
			return d, nil
		}
		if p != nil && p.OS != "unknown" && len(found) < 10 {
			found = append(found, fmt.Sprintf("%.40q", p.OS+"/"+p.Architecture))
		}
	}
	return v1.Descriptor{}, invalid("it is for %s, not for linux/%s", strings.Join(found, ", "), arch).
		WithFix("build or push the image for linux/%s", arch)
}

func fromManifest(ctx context.Context, src source, raw []byte) (*pulled, error) {
	var m v1.Manifest
	if err := decode(raw, &m); err != nil {
		return nil, invalid("read manifest: %w", err)
	}
	if m.Config.Size < 0 || m.Config.Size > maxConfig {
		return nil, invalid("its configuration has %d bytes, more than %d", m.Config.Size, maxConfig)
	}
	text, err := readBlob(ctx, src, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	p := &pulled{digest: digestOf(raw)}
	for _, d := range m.Layers {
		p.layers = append(p.layers, layer{Descriptor: d})
	}
	return p, p.configure(text)
}

// configure takes the configuration, and what it says of the layers.
func (p *pulled) configure(text []byte) error {
	if err := decode(text, &p.config); err != nil {
		return invalid("read the image's configuration: %w", err)
	}
	ids := p.config.RootFS.DiffIDs
	if len(ids) != len(p.layers) || len(ids) > maxLayers {
		return invalid("it has %d layers and the digests of %d, not the same number and at most %d", len(p.layers), len(ids), maxLayers)
	}
	var total int64
	for n := range p.layers {
		l := &p.layers[n]
		if l.DiffID = ids[n].String(); !isSHA256(l.DiffID) || l.Digest != (v1.Hash{}) && !isSHA256(l.Digest.String()) {
			return invalid("layer %d has a digest that is no SHA-256", n+1)
		}
		if strings.Contains(string(l.MediaType), "+encrypted") {
			return invalid("layer %d is encrypted", n+1)
		}
		if total += l.Size; l.Size < 0 || l.Size > maxBlob || total > maxBlob {
			return invalid("its layers have more than %d bytes", int64(maxBlob))
		}
	}
	return nil
}

// check refuses an image for other machines.
func (p *pulled) check(arch string) error {
	if c := p.config; c.OS != "linux" && c.OS != "" || c.Architecture != arch {
		return invalid("it is for %.40q, not for linux/%s", c.OS+"/"+c.Architecture, arch).WithFix("build or push the image for linux/%s", arch)
	}
	return nil
}

// isEStargz reports whether the layer has files that only help to fetch parts of it.
func (l layer) isEStargz() bool {
	return l.Annotations["containerd.io/snapshot/stargz/toc.digest"] != ""
}

func isSHA256(s string) bool {
	sum, err := hex.DecodeString(strings.TrimPrefix(s, "sha256:"))
	return err == nil && strings.HasPrefix(s, "sha256:") && len(sum) == sha256.Size
}

// readBlob reads a small blob whole and compares it with its digest.
func readBlob(ctx context.Context, src source, d v1.Descriptor, most int64) ([]byte, error) {
	r, err := src.blob(ctx, layer{Descriptor: d})
	if err != nil {
		return nil, err
	}
	b, err := readAll(r, most)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return b, compare("blob", b, d.Digest)
}

func readAll(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = invalid("a description of the image has more than %d bytes", most)
	}
	return b, err
}

func compare(what string, b []byte, want v1.Hash) error {
	if got := digestOf(b); got != want.String() {
		return invalid("a %s is %s, what names it says %.80s", what, got, want.String()).
			WithFix("get the image from its source again")
	}
	return nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// decode reads JSON that may have fields of which this program knows nothing.
func decode(b []byte, v any) error {
	if err := tooDeep(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// tooDeep refuses what would take a parser's stack.
func tooDeep(b []byte) error {
	depth := 0
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if t == json.Delim('{') || t == json.Delim('[') {
			depth++
		} else if t == json.Delim('}') || t == json.Delim(']') {
			depth--
		}
		if depth > 64 {
			return errors.New("it is nested more than 64 deep")
		}
	}
}

func invalid(format string, args ...any) *mvm.Error {
	return mvm.Errorf(mvm.KindInvalid, format, args...)
}

// names are those of several images, for a message.
func names(all []string) string {
	slices.Sort(all)
	for n := range all {
		all[n] = fmt.Sprintf("%.100q", all[n])
	}
	if len(all) > 10 {
		all = append(all[:10], "…")
	}
	return strings.Join(all, ", ")
}
