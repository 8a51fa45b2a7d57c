# mvm: see README.md. Every target can be run twice.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -s -w -X main.release=$(VERSION)
FUZZTIME ?= 20s
# Packages whose tests boot microVMs, run OpenClaw or build images, beside test/vm.
VM      = ./test/chat/... ./internal/driver/qemu/... ./internal/image/builtin/... ./internal/image/oci/... ./internal/image/nix/...

.PHONY: all build setup setup-test demo test test-host test-unit test-sim test-vm sim sim-rare soak peers snapshots proof-docs proof-chat verify-kvm chaos-chat mutate check figures vmm-syscalls bench fuzz clean

all: build

# build makes bin/mvm and bin/mvm-guest, which belong beside each other.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/mvm ./cmd/mvm
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/mvm-guest ./cmd/mvm-guest

setup:
	scripts/setup

setup-test:
	scripts/setup --test

# demo shows the main job on this host: a chat with OpenClaw that sleeps and wakes.
demo: setup build
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/demo ./test/demo
	bin/demo

# test has the simulation run in what the other tests leave of the CPU.
test: setup-test build
	$(MAKE) --jobs=2 test-sim test-host

test-host:
	$(MAKE) test-unit
	$(MAKE) test-vm

# Tests about the source and the documents start no goroutine of mvm: they run without the
# race detector, which makes them take five times as long.
SOURCE = . ./docs ./test/figures
# Long tables of cases that go the same ways again and again, which the other tests go, too.
TABLES = ^(TestOneFileOperationFails|TestEveryFieldIsApplied|TestNothingPlantedIsFollowed)$$
test-unit:
	$(GO) vet ./...
	$(GO) test $(SOURCE)
	$(GO) test -run '$(TABLES)' ./internal/agent
	$(GO) test -vet=off -race -timeout 40m -skip '$(TABLES)' $$($(GO) list ./... | grep -v -e '^mvm$$' -e /docs$$ -e /test/figures -e /test/chat -e /test/vm -e /driver/qemu -e /image/builtin -e /image/oci -e /image/nix)

# test-sim simulates 60 hosts of 500 steps each, and shows that the checks bite: the
# program broken on purpose in one of several places is told from the program.
test-sim:
	nice -n 19 $(GO) test -timeout 90m ./internal/sim

# sim simulates more: make sim SEEDS=5000 STEPS=2000 FIRST=1
SEEDS ?= 2000
STEPS ?= 1000
FIRST ?= 1
sim:
	$(GO) test -timeout 24h -v -run TestSimulation ./internal/sim -seed=$(FIRST) -seeds=$(SEEDS) -steps=$(STEPS)

# sim-rare shows that the checks notice also what one seed in a hundred tells.
sim-rare:
	$(GO) test -timeout 24h -v -run TestBrokenVariantsAreCaught ./internal/sim -rare

# soak has one agent in use on real microVMs for SOAK, and looks at what it holds.
SOAK ?= 10m
soak: setup-test build
	$(GO) test -timeout 24h -v -run 'TestSoak$$' ./test/vm -soak=$(SOAK)

# peers ends workers and gateways DEATHS times, with 20 requests under way each time: with
# fake VMMs, and on real microVMs.
DEATHS ?= 50
SEED   ?= 11
peers: setup-test build
	$(GO) test -timeout 3h -v ./test/peers -deaths=$(DEATHS) -seed=$(SEED)
	$(GO) test -timeout 3h -v -run 'TestPeers$$' ./test/vm -peers=$(DEATHS) -peers-seed=$(SEED)

# snapshots changes FLIPS bits of the files of a snapshot, one at a time, and compares RUNS
# random lives of a guest with a model.
FLIPS ?= 10000
RUNS ?= 300
snapshots: setup-test
	$(GO) test -count=1 -timeout 2h -v -run 'TestBitFlips|TestSleepsEqualTheModel' ./internal/snapshot/segment -flips=$(FLIPS) -rapid.checks=$(RUNS)

# proof-chat has the real OpenClaw answer MESSAGES messages with KILLS kills at every step of
# one, and a message every 5 ms around EDGES sleeps and wakes; SCENES new assistants get their
# first message and a photo, with a kill for each; then reminders wake it in a VM.
MESSAGES ?= 200
KILLS    ?= 60
EDGES    ?= 120
SCENES   ?= 23
proof-chat: setup-test build chaos-chat
	$(GO) test -count=1 -timeout 6h -v ./test/chat -seed=$(SEED) -messages=$(MESSAGES) -kills=$(KILLS) -losses=20 -edges=$(EDGES) -scenes=$(SCENES)
	$(GO) test -count=1 -timeout 1h -v -run 'TestOpenClawReminders$$' ./test/vm -remind-in=4m

# chaos-chat has a stand-in of OpenClaw that keeps its rules answer STANDIN messages of 20 chats,
# with a kill of the gateway, a worker's process, its machine or the agent for every fourth, at
# every step of a message; then of what other platforms post, and of Discord.
STANDIN ?= 1000
chaos-chat:
	$(GO) test -count=1 -timeout 1h -v -run 'TestChaos$$' ./internal/guest/chat/telegram -chaos.seed=$(SEED) -chaos.messages=$(STANDIN)
	$(GO) test -count=1 -timeout 1h -v -run 'TestChaosOfAnswers$$' ./internal/guest/chat/telegram
	$(GO) test -count=1 -timeout 1h -v -run 'TestChaos$$' ./internal/guest/chat/discord -chaos.seed=$(SEED) -chaos.messages=$(STANDIN)
	$(GO) test -count=1 -timeout 1h -v -run 'TestKilledGateway$$' ./internal/guest/chat/hook

# mutate plants MUTANTS small bugs by a seed, and fails where the tests miss more than 15 %.
MUTANTS ?= 160
mutate:
	$(GO) run ./test/mutate -seed=$(SEED) -n=$(MUTANTS)

# proof-docs goes through docs/own-program.md and docs/upgrade.md in a new Debian, with an
# upgrade from OLD.
OLD ?= 7c8abe7
proof-docs: build
	scripts/setup --proof
	rm -rf .cache/old && mkdir -p .cache/old && git archive $(OLD) | tar -x -C .cache/old
	$(MAKE) -C .cache/old build VERSION=$(OLD)
	$(GO) test -count=1 -timeout 2h -v -run 'TestDocs$$' ./test/vm -old=$(CURDIR)/.cache/old

# verify-kvm tries mvm on a host with KVM, and writes a report; see docs/kvm.md.
verify-kvm: setup-test build
	GO=$(GO) scripts/verify-kvm

test-vm:
	$(GO) test -parallel 3 -timeout 60m ./test/vm/...
	$(GO) test -p 2 -parallel 3 -timeout 60m $(VM)

# check is what a change must pass beside the tests.
check:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	golangci-lint run ./...

# figures prints how the program is built (packages, lines, imports, functions), and keeps
# that in docs/ARCHITECTURE.md.
figures:
	$(GO) run ./test/figures -write docs/ARCHITECTURE.md

# vmm-syscalls makes the list of system calls of VMMs anew for the QEMU that is installed.
vmm-syscalls: setup-test
	$(GO) test -count=1 ./internal/driver/qemu -run '^TestSystemCalls$$' -learn $(CURDIR)/internal/driver/qemu/spawn/calls.txt
	git diff --exit-code internal/driver/qemu/spawn/calls.txt && echo the list has not changed

# bench prints each figure with its ratio to a named reference of the same run.
bench: setup-test build
	$(GO) test -p 1 -run '^$$' -bench . -benchtime 1x -timeout 30m ./test/vm/...
	$(GO) test -p 1 -run '^$$' -bench . -benchtime 1x -timeout 30m ./test/chat
	$(GO) test -run '^$$' -bench . ./internal/guest/gateway/... ./internal/store/...
	$(GO) test -run '^$$' -bench . -benchtime 1x ./internal/reconcile
	$(GO) test -run '^$$' -bench . -benchtime 3x ./internal/host
	$(GO) test -run '^$$' -bench . -benchtime 9x ./internal/snapshot/segment
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m ./internal/sim

# fuzz runs every fuzz target for FUZZTIME.
fuzz:
	FUZZTIME=$(FUZZTIME) GO=$(GO) scripts/fuzz

clean:
	rm -rf bin
