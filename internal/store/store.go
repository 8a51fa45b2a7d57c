// Package store is the durable state of a host.
package store
