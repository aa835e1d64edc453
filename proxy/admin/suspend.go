package admin

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The verbs that hold clients back, send them away, or have what is behind them replaced. Those that wait do so in a time of
// their own, which the pause bounds.

// maxPause bounds a pause, as clients wait for its end.
const maxPause = time.Hour

// pause holds all commands back. The answer is the line OK, or begins with it.
func pause(ctx context.Context, r *request) (any, error) {
	var length time.Duration
	if len(r.args) > 0 {
		ms, err := strconv.ParseInt(r.args[0], 10, 64)
		length = time.Duration(ms) * time.Millisecond
		if err != nil || len(r.args) > 1 || ms < 1 || ms > maxPause.Milliseconds() {
			return nil, fmt.Errorf("PAUSE %s: want a number of milliseconds, from 1 to %d, after which the pause ends by itself; or "+
				"nothing, for pause-timeout", strings.Join(r.args, " "), maxPause.Milliseconds())
		}
	}
	note, err := r.Proxy.Pause(ctx, length)
	if err != nil || note == "" {
		return "OK", err
	}
	return "OK, but " + note, nil
}

func resume(ctx context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	return "OK", r.Proxy.Resume(ctx)
}

func reconnect(ctx context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	return "OK", r.Proxy.Reconnect(ctx)
}

func drain(_ context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	return "OK", r.Proxy.Drain()
}
