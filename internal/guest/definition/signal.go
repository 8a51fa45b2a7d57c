package definition

import "strconv"

// termination is SIGTERM's number.
const termination = 15

// lastSignal is the number of the last real-time signal.
const lastSignal = 64

// StopNumber returns the number of StopSignal, as Linux has it on x86-64.
func (s Service) StopNumber() (number int, ok bool) {
	if s.StopSignal == "" {
		return termination, true
	}
	if n, err := strconv.Atoi(s.StopSignal); err == nil {
		return n, n > 0 && n <= lastSignal
	}
	switch s.StopSignal {
	case "HUP":
		return 1, true
	case "INT":
		return 2, true
	case "QUIT":
		return 3, true
	case "ABRT":
		return 6, true
	case "KILL":
		return 9, true
	case "USR1":
		return 10, true
	case "USR2":
		return 12, true
	case "TERM":
		return termination, true
	case "CONT":
		return 18, true
	case "WINCH":
		return 28, true
	case "PWR":
		return 30, true
	case "RTMIN+3": // what systemd in a container takes
		return 37, true
	}
	return 0, false
}
