package multiplex

import (
	"bytes"
	"strconv"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// While a script runs for long, the upstream answers -BUSY to nearly everything, the ECHO of a barrier included. Then
// the barrier says nothing: a script could have been made to give that answer. So the link is in doubt: HELLO, which is
// answered all the same, goes behind everything in flight, with an option that does not exist and that holds 128
// random bits. Nothing is handed out before its answer is there, at the very place where it has to be.

// doubt is what a link in doubt holds back.
type doubt struct {
	held   []byte
	framer resp.Framer
	at     int // how much of held has been framed
	from   int // where in held the reply begins that is being framed
	left   int // replies that come before the answer to HELLO
	want   []byte
}

var busyPrefix = []byte("-BUSY ")

// couldBeBusy reports whether a reply that starts with b may turn out to be -BUSY.
func couldBeBusy(b []byte) bool {
	n := min(len(b), len(busyPrefix))
	return bytes.Equal(b[:n], busyPrefix[:n])
}

// startDoubt puts the link in doubt.
func (k *Link) startDoubt() {
	nonce := newNonce()
	want := []byte("-ERR Syntax error in HELLO option '" + nonce + "'\r\n")
	k.doubt = &doubt{left: k.queue.len(), want: want}
	hello := resp.AppendCommand(nil, "HELLO", strconv.Itoa(int(k.ctx.RESP)), nonce)
	k.SubmitSpecial(nil, hello, 0, &Special{Collect: true, Expect: want, Done: func([]byte) {}})
}

// dataInDoubt holds replies back until the answer to HELLO has come, and then hands them out.
func (k *Link) dataInDoubt(b []byte) {
	d := k.doubt
	d.held = append(d.held, b...)
	for d.at < len(d.held) {
		n, done, err := d.framer.Next(d.held[d.at:])
		d.at += n
		switch {
		case err != nil:
			k.broke(err)
			return
		case !done:
			return
		case d.framer.Top() == '>':
			d.from = d.at // nobody's reply
		case d.left > 0:
			d.left--
			d.from = d.at
		case !bytes.Equal(d.held[d.from:d.at], d.want):
			k.broke(errNotExpected)
			return
		default:
			k.doubt = nil
			k.dataCounted(d.held)
			return
		}
	}
}
