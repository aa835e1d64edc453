package peer

import (
	"golang.org/x/sys/unix"
)

// ByPID returns the process with this number. It reports false when there is none. Its executable's name is what the
// system keeps of it, 16 bytes; the command line is not looked at.
func ByPID(pid int) (Process, bool) {
	if pid <= 0 {
		return Process{}, false
	}
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid {
		return Process{}, false
	}
	name := clean(unix.ByteSliceToString(info.Proc.P_comm[:]), maxExecutable)
	return Process{PID: pid, Executable: name, Command: name}, true
}
