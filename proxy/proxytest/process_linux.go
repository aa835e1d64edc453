package proxytest

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end cmd when the test process is gone, however it went. A test that panics or
// runs into its time limit runs no Cleanup, and would leave its server behind.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
