package qemu

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// probeMark is what the probe's guest writes to its console, as a line.
const probeMark = "mvm-probe: userspace"

// probeInitrd is an initrd whose init writes probeMark and powers off.
func probeInitrd() []byte {
	var b bytes.Buffer
	cpioEntry(&b, "dev", 0o040755, 0, 0, nil)
	cpioEntry(&b, "dev/console", 0o020600, 5, 1, nil)
	cpioEntry(&b, "init", 0o100755, 0, 0, probeInit())
	cpioEntry(&b, "TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// cpioEntry writes one entry in the "newc" form.
func cpioEntry(b *bytes.Buffer, name string, mode, major, minor int, data []byte) {
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		b.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	pad()
	b.Write(data)
	pad()
}

// probeInit is a static x86-64 ELF program.
func probeInit() []byte {
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 31, 0, 0, 0, // lea rsi, [rip+31]: the text behind the code
		0xba, byte(len(probeMark) + 1), 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 0xa9, 0, 0, 0, // mov eax, reboot
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, magic
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, magic
		0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, power off
		0x0f, 0x05, // syscall
		0xeb, 0xfe, // jmp to itself
	}
	const base, header = 0x400000, 64 + 56
	size := uint64(header + len(code) + len(probeMark) + 1)
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), // executable, x86-64, version
		uint64(base + header), uint64(64), uint64(0), // entry, program and section headers
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // load r-x
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(code)
	b.WriteString(probeMark + "\n")
	return b.Bytes()
}
