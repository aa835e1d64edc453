//go:build !linux

package main

import (
	"context"
	"fmt"
	"time"
)

// The raw client needs epoll. Elsewhere, --client go-redis does what it can.

type loopDriver struct{}

var errNoLoop = fmt.Errorf("the raw client: %w (--client go-redis does without it)", errNotMeasured)

func newLoopDriver(*session, job) driver  { return loopDriver{} }
func newChurnDriver(*session, job) driver { return loopDriver{} }
func newWaveDriver(*session, job) driver  { return loopDriver{} }
func newFanDriver(*session, job) driver   { return loopDriver{} }

func (loopDriver) start(context.Context) error                       { return errNoLoop }
func (loopDriver) run(context.Context, time.Duration) (tally, error) { return tally{}, errNoLoop }
func (loopDriver) stop()                                             {}

// knocker is of the raw client, too.
type knocker struct{ knocks, told, notTold, leftOut int64 }

func newKnocker(*session, target) (*knocker, error) { return nil, errNoLoop }

func (*knocker) run(context.Context, time.Duration) error { return errNoLoop }
