// Package sim is a deterministic simulation of one host: the real store, agent,
// policy and planner with the fake driver, networks and guests, on a virtual clock,
// with everything that happens chosen by a seed. It has no code but its tests.
//
// # How it is deterministic
//
// testing/synctest gives the clock, not the order of goroutines. So every point
// where one goroutine's work meets another's (a store transaction, each named step
// of an operation, each call of the driver, the networks, the images and the guests)
// parks its goroutine in the scheduler. When all are parked or blocked the scheduler
// lets exactly one go on, chosen by the seed, and may have its call fail, take long,
// or be the place where the agent dies. Parked points are told apart by what, whose
// and from where they were reached, never by when; what is the same in all that, by the
// order in which the goroutines began. Time passes when nobody is parked, and by a
// nanosecond with each that goes on: Go fires timers of one instant in a random order,
// so no two should end together. Each seed runs in a process of its own that has one
// thread for Go code.
//
// # What is checked
//
// After every such step: see check_test.go. Now and then the faults stop, and all
// must come to rest as it should be: see calm_test.go.
//
// # Running it
//
//	go test ./internal/sim                                      what CI runs
//	go test ./internal/sim -run TestSeed -seed=N -steps=M       one seed again, with its trace
//	make sim SEEDS=5000 STEPS=2000                              a long run
package sim
