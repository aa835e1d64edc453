package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// waitForAcks treats WAIT and WAITAOF. They wait for the writes of the connection that they are sent on, so they go
// on the lane that carried the client's, which takes nothing else from then on and is closed afterwards. In front of
// them goes a PUBLISH to nobody: it moves the replication offset that is waited for past all that the client wrote
// on earlier connections.
func (s *session) waitForAcks(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	link := s.lane()
	if link == nil {
		return false
	}
	s.submitWait(link, c, func() { s.acks = nil; s.stopWaiting() })
	s.acks = link
	link.Drain()
	s.bar()
	if s.eof {
		s.cutOff()
	}
	return true
}

// submitWait sends WAIT or WAITAOF behind the PUBLISH that it counts from. If that is refused, the count may be of
// writes long before the client's own: then who is told anything but 0 is told of the refusal instead.
func (s *session) submitWait(link *multiplex.Link, c command, done func()) {
	var refused []byte
	publish := resp.AppendCommand(nil, "PUBLISH", "redbouncer:wait", "")
	link.SubmitSpecial(nil, publish, multiplex.Prompt, &multiplex.Special{Collect: true, Done: func(reply []byte) {
		if isErrorReply(reply) {
			refused = bytes.Clone(reply)
		}
	}})
	s.submit(link, c, s.collect(func(reply []byte) []byte {
		done()
		s.killed = s.killed || bytes.HasPrefix(reply, forced)
		if refused == nil || isErrorReply(reply) || string(reply) == ":0\r\n" {
			return reply
		}
		return refused
	}))
}
