//go:build !race

package sim_test

// raceDetector: the tests run with it, several times slower.
const raceDetector = false
