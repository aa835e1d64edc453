package peer

// Process is a process on this host. Its names are the process's own choice: they tell people apart who mean well.
type Process struct {
	PID        int
	Executable string // the name of its executable, without the directory
	Command    string // its program, and the script or module that it runs; no other arguments
	Container  string // the first 12 digits of its container's id, if it is in one
}
