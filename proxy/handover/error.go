package handover

// RefusedError is why the other program says that it cannot take over.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }
