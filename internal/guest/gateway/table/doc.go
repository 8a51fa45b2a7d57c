// Package table is the routing table that a gateway has in force: which route a request or
// connection takes, and whose it is. It does no I/O but for the log, and nothing in it changes
// once it is made.
package table
