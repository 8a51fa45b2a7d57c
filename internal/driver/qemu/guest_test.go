package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// run runs a command in the guest and returns its output without the last newline.
func run(t testing.TB, v driver.VMM, argv ...string) string {
	t.Helper()
	out, err := tryRun(t.Context(), v, argv...)
	if err != nil {
		t.Fatalf("run %v in the guest: %v", argv, err)
	}
	return out
}

func tryRun(ctx context.Context, v driver.VMM, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	resp, err := guestproto.Call(ctx, c, guestproto.Request{Exec: &guestproto.Exec{Argv: argv}})
	if err != nil {
		return "", err
	}
	if resp.ExecStarted == nil {
		return "", fmt.Errorf("answered %+v", resp)
	}
	var out, stderr bytes.Buffer
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			return "", errors.Join(err, errors.New(out.String()))
		}
		out.Write(f.Stdout)
		stderr.Write(f.Stderr)
		if f.Exit == nil {
			continue
		}
		if f.Exit.Code != 0 {
			return "", fmt.Errorf("exit code %d: %s %s", f.Exit.Code, stderr.String(), f.Exit.Detail)
		}
		return strings.TrimSuffix(out.String(), "\n"), nil
	}
}
