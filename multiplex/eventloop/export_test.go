package eventloop

// Paused reports whether reading is paused.
func (c *Conn) Paused() bool { return c.paused }
