package proxy_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// What a client of the attack knows: the state of its own keys and of its own connection, and from that the
// bytes of every reply.

// command is one command and the reply that it must get.
type command struct {
	parts []string
	want  want
}

// want is what a reply must be.
type want struct {
	exact string   // these bytes
	parts []string // or, without exact, a reply that contains each of these
	pin   bool     // or a refusal, for want of a connection of its own
}

func (w want) matches(b []byte) bool {
	if len(w.parts) == 0 {
		return string(b) == w.exact
	}
	for _, p := range w.parts {
		if !strings.Contains(string(b), p) {
			return false
		}
	}
	return true
}

func (w want) String() string {
	if len(w.parts) == 0 {
		return shorten(w.exact)
	}
	return fmt.Sprintf("something with %q", w.parts)
}

func shorten(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%q... (%d bytes)", s[:200], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// refusal is what a client is told when no upstream connection is left for it in time.
const refusal = "-ERR max number of clients reached\r\n"

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

func integer(n int) string { return ":" + strconv.Itoa(n) + "\r\n" }

func array(elements ...string) string {
	return "*" + strconv.Itoa(len(elements)) + "\r\n" + strings.Join(elements, "")
}

// keys is the state of the keys of one life in one database. Names are those without the identity in front.
type keys struct {
	strings map[string]string
	ints    map[string]int
	lists   map[string][]string
	hash    map[string]string
	fields  []string // of hash, in the order of their arrival
}

func newKeys() *keys {
	return &keys{strings: map[string]string{}, ints: map[string]int{}, lists: map[string][]string{}, hash: map[string]string{}}
}

func (k *keys) clone() *keys {
	c := &keys{
		strings: maps.Clone(k.strings), ints: maps.Clone(k.ints), lists: maps.Clone(k.lists),
		hash: maps.Clone(k.hash), fields: slices.Clone(k.fields),
	}
	for name, l := range c.lists {
		c.lists[name] = slices.Clone(l)
	}
	return c
}

// null is the reply for a value that is not there.
func (l *life) null() string {
	if l.proto == 3 {
		return "_\r\n"
	}
	return "$-1\r\n"
}

// nullArray is the reply for a list of values that is not there.
func (l *life) nullArray() string {
	if l.proto == 3 {
		return "_\r\n"
	}
	return "*-1\r\n"
}

func (l *life) value(s string, ok bool) string {
	if !ok {
		return l.null()
	}
	return bulk(s)
}

// push is a frame of a subscription.
func (l *life) push(elements ...string) string {
	s := array(elements...)
	if l.proto == 3 {
		s = ">" + s[1:]
	}
	return s
}

// fresh returns a value that nobody else has, and this life only once.
func (l *life) fresh() string {
	l.seq++
	v := fmt.Sprintf("%s.s%d", l.id, l.seq)
	switch l.rnd.IntN(40) {
	case 0:
		v = strings.Repeat(v+" ", 1000)
	case 1:
		v += "\r\n$5\r\n\x00\xff\r\n" // looks like protocol, and is data
	case 2:
		v = strings.Repeat(v+"/", 20)
	}
	return v
}

// pure returns a random command that touches only keys of this life, and applies it to the model.
func (l *life) pure() command {
	k := l.keys()
	name := fmt.Sprintf("s%d", l.rnd.IntN(4))
	key := l.key(name)
	switch l.rnd.IntN(16) {
	case 0, 1, 2:
		v := l.fresh()
		k.strings[name] = v
		return command{[]string{"SET", key, v, "EX", "100"}, want{exact: "+OK\r\n"}}
	case 3, 4, 5:
		v, ok := k.strings[name]
		return command{[]string{"GET", key}, want{exact: l.value(v, ok)}}
	case 6:
		v, ok := k.strings[name]
		k.strings[name] = l.fresh()
		return command{[]string{"GETSET", key, k.strings[name]}, want{exact: l.value(v, ok)}}
	case 7:
		k.ints[name]++
		return command{[]string{"INCR", l.key("n" + name)}, want{exact: integer(k.ints[name])}}
	case 8:
		v, ok := k.strings[name]
		other, ok2 := k.strings["s0"]
		return command{[]string{"MGET", key, l.key("missing"), l.key("s0")},
			want{exact: array(l.value(v, ok), l.null(), l.value(other, ok2))}}
	case 9:
		_, ok := k.strings[name]
		delete(k.strings, name)
		n := 0
		if ok {
			n = 1
		}
		return command{[]string{"DEL", key}, want{exact: integer(n)}}
	case 10, 11:
		return l.listCommand(k)
	case 12:
		return l.hashCommand(k)
	default:
		return l.stateless(k, name)
	}
}

func (l *life) listCommand(k *keys) command {
	key := l.key("list")
	have := k.lists["list"]
	switch l.rnd.IntN(3) {
	case 0:
		if len(have) < 20 {
			v := l.fresh()
			k.lists["list"] = append(have, v)
			return command{[]string{"RPUSH", key, v}, want{exact: integer(len(have) + 1)}}
		}
		fallthrough
	case 1:
		if len(have) == 0 {
			return command{[]string{"LPOP", key}, want{exact: l.null()}}
		}
		k.lists["list"] = have[1:]
		return command{[]string{"LPOP", key}, want{exact: bulk(have[0])}}
	default:
		var all []string
		for _, v := range have {
			all = append(all, bulk(v))
		}
		return command{[]string{"LRANGE", key, "0", "-1"}, want{exact: array(all...)}}
	}
}

// hashCommand is about a hash of few and short fields, which Redis keeps in the order of their arrival.
func (l *life) hashCommand(k *keys) command {
	key := l.key("hash")
	if l.rnd.IntN(2) == 0 {
		l.seq++
		f, v := fmt.Sprintf("f%d", l.rnd.IntN(3)), fmt.Sprintf("%s.s%d", l.id, l.seq)
		n := 0
		if _, ok := k.hash[f]; !ok {
			k.fields = append(k.fields, f)
			n = 1
		}
		k.hash[f] = v
		return command{[]string{"HSET", key, f, v}, want{exact: integer(n)}}
	}
	var all []string
	for _, f := range k.fields {
		all = append(all, bulk(f), bulk(k.hash[f]))
	}
	exact := array(all...)
	if l.proto == 3 {
		exact = "%" + strconv.Itoa(len(k.fields)) + "\r\n" + strings.Join(all, "")
	}
	return command{[]string{"HGETALL", key}, want{exact: exact}}
}

// stateless returns a command whose reply is made of its arguments, or an error.
func (l *life) stateless(k *keys, name string) command {
	v := l.fresh()
	switch l.rnd.IntN(5) {
	case 0:
		return command{[]string{"EVAL", "return {KEYS[1], ARGV[1]}", "1", l.key("x"), v},
			want{exact: array(bulk(l.key("x")), bulk(v))}}
	case 1:
		return command{[]string{"PING", v}, want{exact: bulk(v)}}
	case 2:
		if _, ok := k.strings[name]; ok {
			return command{[]string{"LPUSH", l.key(name), v}, want{
				exact: "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"}}
		}
	case 3:
		return command{[]string{"ACL", "WHOAMI"}, want{exact: bulk(l.user)}}
	}
	return command{[]string{"ECHO", v}, want{exact: bulk(v)}}
}

// connection returns a command about the connection itself, and applies it to the model.
func (l *life) connection() command {
	switch l.rnd.IntN(8) {
	case 0, 1:
		l.db = l.rnd.IntN(3)
		return command{[]string{"SELECT", strconv.Itoa(l.db)}, want{exact: "+OK\r\n"}}
	case 2:
		return command{[]string{"SELECT", "9999"}, want{exact: "-ERR DB index is out of range\r\n"}}
	case 3:
		l.seq++
		l.name = fmt.Sprintf("%s.s%d", l.id, l.seq)
		return command{[]string{"CLIENT", "SETNAME", l.name}, want{exact: "+OK\r\n"}}
	case 4, 5:
		return command{[]string{"CLIENT", "GETNAME"}, want{exact: l.value(l.name, l.name != "")}}
	case 6:
		return command{[]string{"CLIENT", "INFO"}, want{parts: []string{" name=" + l.name + " ", fmt.Sprintf(" db=%d ", l.db), " user=" + l.user + " "}}}
	default:
		// Not known to Redis, so it cannot be known what it would do to a shared connection.
		v := fmt.Sprintf("%s.nosuchcommand", l.id)
		return command{[]string{v}, want{parts: []string{"-ERR unknown command ", v}, pin: true}}
	}
}
