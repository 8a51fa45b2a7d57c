package chat_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var (
	seedFlag     = flag.Uint64("seed", 11, "what is random")
	messagesFlag = flag.Int("messages", 6, "messages of TestKills")
	killsFlag    = flag.Int("kills", 3, "kills of TestKills")
	withinFlag   = flag.Duration("within", 0, "after which TestKills ends with what it has; 0: when all is done")
	lossesFlag   = flag.Int("losses", 1, "losses of power of TestPowerLoss")
	edgesFlag    = flag.Int("edges", 3, "sleeps of TestEdges with a message each")
	scenesFlag   = flag.Int("scenes", 0, "new assistants of TestFirst, each with its first message and a photo; with more than one it also waits for what OpenClaw does by itself; 0: it is skipped")
	breakFlag    = flag.String("break", "", "what is left out: the sync, the gateway's disk, or that OpenClaw's chats are started (sync, disk, chats)")
)

// The test binary is also the programs of the guests.
const (
	roleEnv  = "MVM_PROOF_ROLE"
	dirEnv   = "MVM_PROOF_DIR"
	diskEnv  = "MVM_PROOF_DISK"
	rootEnv  = "MVM_PROOF_ROOTFS"
	breakEnv = "MVM_PROOF_BREAK"
	countEnv = "MVM_PROOF_COUNT"
)

func TestMain(m *testing.M) {
	role := map[string]func() error{"worker": beWorker, "gateway": beGateway}[os.Getenv(roleEnv)]
	if role == nil {
		goleak.VerifyTestMain(m)
		return
	}
	if err := role(); err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(roleEnv)+":", err)
		os.Exit(1)
	}
}
