package proxy

// UseStreams has a server handle every connection as it does on systems without epoll, and over TLS.
func UseStreams(c *Config) { c.streams = true }
