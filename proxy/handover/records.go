package handover

import "time"

// Version is that of the records. It rises when a record says something that must not be overlooked: a program offers its
// own, and the new one refuses what it does not know.
const Version = 1

// Kind is what a record is.
type Kind uint8

// The kinds of records.
const (
	OfferKind Kind = 1 + iota
	ReadyKind
	FailedKind
	PlaceKind
	BeginKind
	ServingKind
	CallerKind
	ClientKind
	KnownKind
	LeftKind
	UpstreamKind
)

// Offer is the first record. The descriptors of Listeners come with it, in their order.
type Offer struct {
	Version   int
	Listeners []Listener
}

// Listener is a listening socket.
type Listener struct {
	Setting string // listen, admin-listen or http-listen
	Addr    string // as the setting spells it
	Kept    bool   // somebody else has opened it, and it cannot be opened again by its address
}

// Ready says that the new program could serve.
type Ready struct{ PID int }

// Failed says that it cannot, and why.
type Failed struct{ Error string }

// Place is a client that the old program still has: the new one counts it from now on. Identities are in the order of
// limits.IdentityKind; they are bytes, as clients choose them.
type Place struct {
	Client     int64
	Identities [][]byte
	Outside    bool // a rule has no room for what it has become since it was let in
}

// Begin has the new program accept clients.
type Begin struct {
	LastID   int64 // the ids of new clients begin above it
	Upstream int   // how many upstream connections the old program may have

	// What operators have set while the old program ran.
	Parameters map[string]int64 // by the names of their settings
	Rules      []string         // all that are in force, if operators have changed any
	RulesSet   bool             // they have
}

// Serving says that the new program accepts clients.
type Serving struct{}

// Upstream says how many upstream connections the old program may have now.
type Upstream struct{ Size int }

// Known says what is known of a client by now: it is a Place again.
type Known = Place

// Left says that a client has gone that had a Place.
type Left struct{ Client int64 }

// Process is a client's process on this host.
type Process struct {
	PID                            int
	Executable, Command, Container []byte
}

// Caller is a client that waits to be let in. Its socket comes with it.
type Caller struct {
	Remote     []byte // its address, as CLIENT LIST shows it
	OnHost     bool   // a TCP client of this host
	Identities [][]byte
	Process    *Process // nil: not known
	Heard      []byte   // what it has said
}

// Client is a client that has nothing under way. Its socket comes with it. Times are how long ago something was.
type Client struct {
	ID         int64
	Remote     []byte
	Identities [][]byte
	Process    *Process // nil: not known

	User, Password    []byte // the ACL user; empty: it has not authenticated. The password is the one accepted last
	DB                int
	RESP              uint8
	NoTouch, ReadOnly bool
	NoEvict           bool
	ReplyOff          bool // CLIENT REPLY OFF
	SkipNext          bool // CLIENT REPLY SKIP, and no command since

	Name, LibName, LibVer []byte

	Age, Active, Used        time.Duration
	Commands, Received, Sent uint64
	Heard                    []byte // what it has said while it waits for a place under a rule; the above is without it
	Signs                    uint32
	LastCommand              string // the name of its row in the table of commands; empty: none
}
