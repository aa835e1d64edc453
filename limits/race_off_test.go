//go:build !race

package limits_test

const hoursByDefault = 20
