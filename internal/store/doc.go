// Package store is the durable state of a host: one bbolt file that one agent
// holds at a time.
//
//	state.db (schema version 5)
//	├ meta               <name>                   -> string: schema_version, next_uid, uid_base, node_id, …
//	├ tenants            <tenant>                 -> tenantRecord
//	├ secrets            <tenant>                 -> sealed bytes, opaque to the store
//	├ tenant_keys        <tenant>[/former]        -> its key, sealed with the master key; the one before while files need it
//	├ net_ids            net_id, 2 bytes          -> netIDUse: the tenant that has it or had it last; kept for good
//	├ pools              <tenant>/<pool>          -> poolRecord
//	├ instances          <id>                     -> instanceRecord
//	├ instances_by_pool  <tenant>/<pool>/<id>     -> (empty)
//	├ instances_by_key   <tenant>/<pool>@<key>    -> <id>
//	├ uids               uid, 4 bytes             -> <id>: users that instances have
//	├ events             seq, 8 bytes             -> eventRecord: the audit log, each with the hash of all before it
//	├ transitions        <id>                     -> []transitionRecord: the last 16, oldest first
//	└ audit              ends                     -> audit.Ends: where the log begins and ends, sealed
//
// Numbers in keys are big-endian, so that a cursor sees them in order. Values are
// JSON, but for sealed secrets and keys and the two indexes. No name has a '/' or '@', and no key a '/', so
// no key is a prefix of one that it should not be. The indexes are written by the
// methods that write what they index, and by nothing else; Tx.Check proves it.
//
// # Records
//
// What is on disk are records, types of the store's own (record*.go). Methods take and return
// nouns, and convert. So a noun may change for the API without a change of the file.
//
// # Schema versions
//
// A file says its version in meta. Open migrates an older file, one version after
// another in one transaction, after it has put a copy beside it
// (state.db.v<version>). It refuses a newer one and leaves it as it is.
//
// # Promises
//
// An Update is all or nothing, and durable when it has returned without error: its
// pages and then its meta page are synced, one after the other, so one Update
// costs two fdatasync calls whatever it contains. An Update that fails, for want of space
// too, leaves the state as it was and the Store usable. The file keeps blocks in
// reserve, so that a disk which others have filled does not stop the agent from
// recording what it does.
//
// Updates take turns; Views run beside each other and beside an Update, each on the
// state at its start. Within a function given to View or Update, call only the Tx.
package store
