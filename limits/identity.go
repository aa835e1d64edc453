package limits

import "strings"

// IdentityKind is one of the ways in which a client is counted.
type IdentityKind uint8

// The identities of a client. Address, listener and certificate are known when it connects, the others when it says so, or when they
// have been found out.
const (
	ByAddr        IdentityKind = iota // its IP address, or the path of the unix socket
	ByListener                        // where it connected, as the setting listen spells it
	ByUser                            // its ACL user
	ByName                            // what CLIENT SETNAME said
	ByLib                             // what CLIENT SETINFO said: library/version
	ByPID                             // its process, if it is on this host
	ByProcess                         // that process's executable, without its directory
	ByContainer                       // that process's container
	ByCert                            // the name in its TLS certificate
	IdentityKinds                     // how many there are
)

var identityKinds = [IdentityKinds]string{"addr", "listener", "user", "name", "lib", "pid", "process", "container", "cert"}

// String returns the kind as rules and the console spell it.
func (k IdentityKind) String() string { return identityKinds[k] }

// ParseIdentityKind reads what String writes, in any case.
func ParseIdentityKind(word string) (IdentityKind, bool) {
	for k, name := range identityKinds {
		if strings.EqualFold(name, word) {
			return IdentityKind(k), true
		}
	}
	return 0, false
}

// Identities are the values that a client has, one a kind. What is not known is "".
type Identities [IdentityKinds]string

// MaxIdentity is how many bytes of a value a gate takes account of. Clients choose names of hundreds of megabytes, if they
// are let, and what a client was called is remembered when it has gone.
const MaxIdentity = 256

// shorten cuts what is too long. What is cut does not keep the whole alive.
func (ids *Identities) shorten() {
	for k, value := range ids {
		if len(value) > MaxIdentity {
			ids[k] = strings.Clone(value[:MaxIdentity])
		}
	}
}

// Source is who a client is taken to be when leaks are looked for, and when sources share: the process if it is on this
// host, else the address; and the name that the client goes by, if any.
func (ids *Identities) Source() string {
	source := ids[ByAddr]
	if ids[ByPID] != "" {
		source = ids[ByProcess] + "[" + ids[ByPID] + "]"
	}
	if ids[ByName] != "" {
		source += " " + ids[ByName]
	}
	return source
}
