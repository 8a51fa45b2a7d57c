package boot

import (
	"context"
	"log/slog"

	"mvm"
)

// Part gets a part of the folder, as a build of an image does.
func Part(ctx context.Context, dir, name, key string, build func(dir string) error) (string, error) {
	p, err := openParts(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	return p.get(ctx, name, key, 0, func(mvm.Progress) {}, build)
}
