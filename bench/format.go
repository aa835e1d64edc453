package main

import (
	"fmt"
	"math"
	"strconv"
)

// notMeasured stands where a figure does not exist or cannot be had on this machine.
const notMeasured = "n/a"

// withRange shows the median, and the ends if there is more than one figure.
func withRange(s spread, format func(float64) string) string {
	if s.Min == s.Max {
		return format(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", format(s.Median), format(s.Min), format(s.Max))
}

func asRatio(v float64) string { return fmt.Sprintf("%.2f", v) }

// asFineRatio is for verdicts: a bound missed by little must not look met.
func asFineRatio(v float64) string { return fmt.Sprintf("%.3f", v) }

func asMicroseconds(v float64) string { return fmt.Sprintf("%.2f", v) }

// asWhole is for times of which a tenth says nothing.
func asWhole(v float64) string { return thousands(v) }

func asOneDigit(v float64) string { return fmt.Sprintf("%.1f", v) }

func asBytes(v float64) string { return thousands(v) + " B" }

func asMegabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/(1<<20)) }

// thousands shows a whole number with commas.
func thousands(v float64) string {
	digits := strconv.FormatInt(int64(math.Round(v)), 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}
