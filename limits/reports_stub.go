package limits

import "time"

// RuleReport is a rule in force and how it stands.
type RuleReport struct {
	Rule    string // its text
	Head    string // what names it
	Observe bool   // it only counts
	Groups  []GroupReport
}

// GroupReport is how a rule stands for one of the values that it counts.
type GroupReport struct {
	Value                                 string
	Open, Max, Waiting                    int
	Refused, Queued, Evicted, WouldRefuse uint64
	Pins, MaxPins                         int
	Rate                                  float64
}

// WaiterReport is a client in the queue.
type WaiterReport struct {
	Remote, Source, Rule string
	Since                time.Duration
	Bytes                int
}

// SourceReport is what is known of a source.
type SourceReport struct {
	Value                                     string
	Open, InUse, Idle, NeverSpoke, Subscribed int
	Ages                                      [5]int
	Opens, Closes                             int // in the last minute
	Slope                                     float64
	CommandsPerMinute, CommandsPerConnection  float64
	PeakInUse                                 int
	Refused                                   uint64
	Process, Command, Container               string
	Lib, Name, User, LastCommand              string
	Oldest                                    []OldConnection
}

// OldConnection is one of a source's oldest.
type OldConnection struct {
	Remote    string
	Age, Idle time.Duration
}

// Suspect is a source that a leak rule has named.
type Suspect struct {
	Source, Rule   string
	Since          time.Duration
	Reason, Advice string
	Report         SourceReport
}
