// Package manifest reads what people write for mvm: deployment manifests (`mvm
// deploy`), the config files and templates of `mvm new`, and the agent's own config
// file. It turns strict TOML into the nouns of package mvm, and reads the secret
// files that a manifest names.
//
// Promises of every reader:
//   - A file of more than MaxFileBytes is refused before it is parsed, and nesting
//     is bounded, so that no input costs more than its size deserves.
//   - Unknown keys, wrong types, values out of range, duplicates and secret files
//     that cannot be used are all found in one go. The error is of KindInvalid, wraps
//     Problems, and names file, line, column and key of each.
//   - Nothing is returned beside an error, so that nothing half-read is applied.
//   - No error holds the value of a secret.
//
// A key that is left out takes its default; a key that is there must have a value
// that makes sense, and an explicit zero is out of range where zero makes no sense.
//
// All functions may be called from many goroutines.
package manifest

import "mvm/internal/stricttoml"

// Problems are all that is wrong with a file, in its order.
type Problems = stricttoml.Problems
