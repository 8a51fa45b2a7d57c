package gateway_test

import "syscall"

const errRefused = syscall.ECONNREFUSED
