package qemu

// ProbeInitrd and ProbeMark let a test boot the guest of the KVM probe.
var ProbeInitrd = probeInitrd

const ProbeMark = probeMark
