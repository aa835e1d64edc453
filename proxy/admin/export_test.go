package admin

import "net"

// HTTPAddr returns where metrics and probes are served.
func (s *Server) HTTPAddr() net.Addr { return s.httpLn.Addr() }
