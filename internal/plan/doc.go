// Package plan says what to do so that a tenant becomes as a deployment asks. It is
// pure: it looks at what it is given and changes nothing.
//
// The order of steps: tenant, secrets, pools in role order (gateways first) with
// their images, then instances. Instances of each pool in role order: a deficit of
// running ones is filled by resuming warm, waking sleeping, starting stopped or ready
// and creating new ones, in this order and within the quota; then warm ones. At the end, in reverse role order, a surplus goes to sleep,
// newest first, and missing sleepers are made. What one pool gives up, another may
// use: filling and trimming go on until nothing changes.
//
// Make on the outcome of its own steps gives no step.
//
// # What is left alone
//
//   - Instances with a key belong to users. Each counts as one of the pool's, in whatever
//     state it is: the spares that users have claimed are not made again by the next run.
//     One whose VMM ended by itself is started again. Otherwise they are only restarted,
//     when they are behind.
//   - An instance that somebody changed by hand, until its override ends: it is
//     counted where it helps, so that nothing is made in its place.
//   - An instance with an operation under way is counted where that leads.
//   - A critical pool's instances: missing ones are made, none is changed.
//   - A pinned pool's instances are neither paused nor put to sleep.
//   - Sleepers beyond the desired number: they cost no memory, and to stop one would
//     lose what it has in its memory. For the same reason a surplus is put to sleep,
//     never stopped, so that a pinned tenant needs no rule of its own.
//   - Pools that the deployment does not name, unless pruning is asked for. A pinned or
//     critical one, all of a pinned tenant, and one with an instance that somebody
//     changed by hand, stay even then.
//   - Resources and images of instances that are there: changes are for new ones.
package plan
