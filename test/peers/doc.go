// Package peers ends instances while requests and streams are under way to them, and
// looks at what their clients get. The agent, the gateways' routers and the publisher are
// real; VMMs are fake, and so is the network between them in one respect: of an instance
// that has ended nothing comes any more, neither bytes nor an end, as with a VMM that was
// killed. It has no code but its tests.
//
//	go test ./test/peers                            what CI runs
//	go test ./test/peers -deaths=500 -seed=7        more, and others
//	make peers                                      the same on real microVMs
package peers
