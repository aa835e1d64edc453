package main

import (
	"errors"
	"fmt"
	"slices"
)

// spread is the middle and the ends of some figures.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

var errNoFigures = errors.New("there are no figures")

// spreadOf returns the median of the figures, the mean of the middle two if their number is even.
func spreadOf(figures []float64) (spread, error) {
	if len(figures) == 0 {
		return spread{}, errNoFigures
	}
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	return spread{
		Median: (sorted[(n-1)/2] + sorted[n/2]) / 2,
		Min:    sorted[0],
		Max:    sorted[n-1],
	}, nil
}

// ratios divides round by round. A zero on either side was not measured, and neither is its ratio.
func ratios(of, to []float64) ([]float64, error) {
	if len(of) == 0 || len(of) != len(to) {
		return nil, fmt.Errorf("%d figures against %d: %w", len(of), len(to), errNoFigures)
	}
	quotients := make([]float64, len(of))
	for i := range of {
		if of[i] == 0 || to[i] == 0 {
			return nil, errNotMeasured
		}
		quotients[i] = of[i] / to[i]
	}
	return quotients, nil
}
