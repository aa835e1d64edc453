package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
)

// outputLimits are limits of clients' output as Redis writes them: class, hard limit, soft limit and seconds, once or
// several times. A class that is not named keeps its default.
type outputLimits proxy.OutputLimits

var errOutputLimits = errors.New("want class, hard limit, soft limit and soft seconds, such as \"pubsub 32mb 8mb 60\", " +
	"for the classes normal and pubsub; 0 is no limit")

func (l *outputLimits) UnmarshalText(text []byte) error {
	limits := outputLimits(proxy.DefaultClientOutputBufferLimit)
	words := strings.Fields(string(text))
	if len(words) == 0 || len(words)%4 != 0 {
		return errOutputLimits
	}
	for ; len(words) > 0; words = words[4:] {
		var limit proxy.OutputLimit
		seconds, err := strconv.ParseUint(words[3], 10, 31)
		if !readLimit(words[1], &limit.Hard) || !readLimit(words[2], &limit.Soft) || err != nil {
			return errOutputLimits
		}
		limit.SoftTime = time.Duration(seconds) * time.Second
		switch strings.ToLower(words[0]) {
		case "normal":
			limits.Normal = limit
		case "pubsub":
			limits.PubSub = limit
		default:
			return errOutputLimits
		}
	}
	*l = limits
	return nil
}

// readLimit reads a size, of which 0 is no limit.
func readLimit(word string, n *int64) bool {
	if word == "0" {
		*n = 0
		return true
	}
	var s size
	if s.UnmarshalText([]byte(word)) != nil {
		return false
	}
	*n = int64(s)
	return true
}

func (l outputLimits) String() string {
	write := func(class string, limit proxy.OutputLimit) string {
		sizeOf := func(n int64) string {
			if n == 0 {
				return "0"
			}
			return size(n).String()
		}
		return fmt.Sprintf("%s %s %s %d", class, sizeOf(limit.Hard), sizeOf(limit.Soft), limit.SoftTime/time.Second)
	}
	return write("normal", l.Normal) + " " + write("pubsub", l.PubSub)
}

// yesNo is Redis's boolean.
type yesNo bool

func (b *yesNo) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "yes", "true":
		*b = true
	case "no", "false":
		*b = false
	default:
		return errors.New("want yes or no")
	}
	return nil
}

func (b yesNo) String() string {
	if b {
		return "yes"
	}
	return "no"
}
