package doctor

import (
	"context"
	"encoding/json"
)

// proxySuspect is a row of PROXY SHOW SUSPECTS: a redbouncer has watched its clients for longer than we.
type proxySuspect struct {
	Source  string `json:"source"`
	Rule    string `json:"rule"`
	SinceS  int    `json:"since_s"`
	Open    int    `json:"open"`
	Command string `json:"command"`
	Reason  string `json:"reason"`
	Advice  string `json:"advice"`
}

// askProxy asks a redbouncer what it knows and no Redis does. Only its admin-users and stats-users may.
func (v *survey) askProxy(ctx context.Context) {
	text, err := v.server.client.Do(ctx, "PROXY", "SHOW", "SUSPECTS", "FORMAT", "JSON").Text()
	if err != nil {
		v.cannot("PROXY SHOW SUSPECTS", err, "")
		return
	}
	if err := json.Unmarshal([]byte(text), &v.suspectsOfProxy); err != nil {
		v.cannot("PROXY SHOW SUSPECTS", err, "")
	}
}
