package admin

import (
	"context"
	"errors"
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

// upgrade has another program take over. The answer is the id of its process.
func upgrade(ctx context.Context, r *request) (any, error) {
	if r.Upgrader == nil {
		return nil, errors.New("this proxy cannot be replaced while it runs")
	}
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	pid, err := r.Upgrader.Upgrade(ctx, "PROXY UPGRADE")
	if err != nil {
		return nil, fmt.Errorf("not upgraded, this program goes on: %w", err)
	}
	return fmt.Sprintf("OK, process %d serves", pid), nil
}
