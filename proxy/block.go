package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex"
)

// A transaction that is in hand as a whole goes on the lane as one block: that is how client libraries write it. Others
// get a connection of their own, see transaction.go.

const (
	// A transaction is sent on the lane as a block if it is no larger than this, and otherwise on a pin.
	maxBlockBytes    = 1 << 20
	maxBlockCommands = 16 << 10
)

// startTransaction sends MULTI on the lane if the transaction is in hand up to its end, and otherwise takes a pin.
// Answering QUEUED without asking the upstream would lose the errors that it reports at that point.
func (s *session) startTransaction(c command, rest []byte) bool {
	tx := s.wholeTransaction(c, rest)
	if tx.n == 0 {
		return s.onNewPin(c)
	}
	link := s.lane()
	if link == nil {
		return false
	}
	if tx.scripts && !link.CanEcho() {
		return s.onNewPin(c)
	}
	s.block, s.blockScript = int32(tx.n), tx.scripts
	s.submit(link, c, nil)
	return true
}

// whole is what is known of a transaction that is in hand up to its end.
type whole struct {
	n       int // commands behind MULTI; 0: it is not in hand, or may leave state behind
	scripts bool
	writes  bool // it may have something to tell replicas
}

// wholeTransaction looks at the commands behind a MULTI, up to its EXEC or DISCARD.
func (s *session) wholeTransaction(c command, rest []byte) (tx whole) {
	if c.Len() != 1 {
		return whole{}
	}
	r := &s.w.scanner
	r.Unauthenticated = s.ctx.Unauthenticated()
	rest = rest[:min(len(rest), maxBlockBytes)]
	for tx.n < maxBlockCommands {
		k, err := r.Next(rest)
		if err != nil || k == 0 {
			r.Reset()
			return whole{}
		}
		rest = rest[k:]
		if r.Len() == 0 || r.Unauthenticated && tooMuch(r) {
			return whole{} // an empty command: rare, and no command of the block
		}
		tx.n++
		var sub []byte
		if r.Len() > 1 {
			sub = r.Arg(1)
		}
		row := s.w.table.lookup(r.Arg(0), sub)
		tx.writes = tx.writes || row.stalls()
		switch row.how {
		case read, share:
			// A command that may block is none of these: if the upstream refused the MULTI, it would block the lane.
			if row.publishes && s.w.srv.audience.shared.Load() > 0 {
				return whole{} // its reply is not the upstream's
			}
		case script:
			if hasEscapes(r) {
				return whole{}
			}
			tx.scripts = true
		case exec, discard:
			if r.Len() == 1 {
				return tx
			}
			return whole{} // the transaction goes on
		default:
			return whole{}
		}
	}
	return whole{}
}

// transact sends the next command of a transaction that is in hand. Nobody else's command gets between: the lane
// is not let go of before the last one.
func (s *session) transact(c command) {
	if s.tracks != nil {
		keys, known, _ := readKeys(c)
		s.w.blockReads, s.w.blockUnknown = append(s.w.blockReads, keys...), s.w.blockUnknown || !known
	}
	c.row = transactionRow
	if s.block > 1 {
		s.submit(s.link, c, nil)
		s.block--
		return
	}
	link := s.link
	keys, known := s.w.blockReads, !s.w.blockUnknown
	s.w.blockReads, s.w.blockUnknown = nil, false
	s.submit(link, c, &multiplex.Special{Done: func(head []byte) {
		if !transactionOver(head) {
			link.Break(errStuck)
		}
		s.remember(keys, known)
	}})
	if s.blockScript {
		link.Barrier()
	}
	s.block = 0
}

// transactionRow stands for the commands of a transaction, which is never sent again.
var transactionRow = &row{name: "MULTI", how: share}

// transactionOver reports whether the reply to EXEC or DISCARD, which starts with head, ended the transaction. A
// user who may not use them stays in it.
func transactionOver(head []byte) bool {
	if len(head) == 0 || head[0] != '-' {
		return true
	}
	for _, prefix := range []string{
		"-EXECABORT", "-ERR EXEC without", "-ERR DISCARD without",
		"-MOVED", "-ASK", "-CROSSSLOT", "-CLUSTERDOWN", "-TRYAGAIN", // of a cluster: they end it too
	} {
		if bytes.HasPrefix(head, []byte(prefix)) {
			return true
		}
	}
	return false
}
