// Package mvm holds the nouns of mvm: tenants, pools, instances and what is
// said of them (states, quotas, policies, routes, errors, addresses).
//
// It imports nothing of the project, does no I/O, starts no goroutine and holds
// no lock, so that every other package can speak in its words. Values are plain
// data: copying them is safe, and a value that passed Validate stays valid until
// it is changed.
package mvm
