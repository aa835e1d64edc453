package admin

import "net"

// HTTPAddr returns where the page, metrics and probes are served.
func (s *Server) HTTPAddr() net.Addr { return s.web.ln.Addr() }
