// Package roster is what a gateway knows of the instances that it sends to: which are awake,
// who waits for one, what is under way to each, and the connections to them.
//
// A Lease is one use of an awake instance. Where none is known to be awake the host is asked,
// once for all who need the same. A Fence ends what is known; from then on nothing is sent to
// the instance before the host has been asked. Where the host says that an instance's memory
// is gone, every connection to it ends at once. A Link is a connection for requests, which is
// pooled between two of them.
package roster
