// Package chat proves what docs/chat.md promises, with the real OpenClaw. The gateway's guest
// (router, channels, Telegram) is a process of its own, and so is a worker: the guest agent and
// OpenClaw in namespaces, on the image's root filesystem and an ext4 disk. The host between them
// is the test, and so is Telegram. There is no VM, so hundreds of kills take minutes.
//
// A killed worker loses what its disk had not synced: the test goes on with a copy of the disk
// as it was at that moment. It has no code but its tests.
//
//	go test ./test/chat                     what CI runs
//	make proof-chat SEED=7                  200 messages and 60 kills, and a message every 5 ms around a sleep
//	go test ./test/chat -run TestFirst -scenes=23          new assistants with a kill at each step of their first message
//	go test ./test/chat -run TestPowerLoss -break=sync     the proof, with the sync taken out, fails
//	go test ./test/chat -run TestFirst -break=chats        and so it does if mvm does not start OpenClaw's chats
//	go test ./test/chat -run TestKills -break=disk         and so it may without the gateway's disk
package chat
