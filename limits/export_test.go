package limits

import "fmt"

// Remembered says what a gate knows of clients; "" when that is nothing.
func (g *Gate) Remembered() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.places)+len(g.known)+len(g.queues)+g.inside == 0 && g.tickets.next == &g.tickets {
		return ""
	}
	return fmt.Sprint("places ", g.places, ", clients ", len(g.known), ", queues ", len(g.queues), ", privileged ", g.inside)
}

// Matches reports whether a rule is meant for a client, and under which value it counts it.
func Matches(r *Rule, ids *Identities) (value string, ok bool) { return r.matches(ids) }
