// Package stricttoml reads TOML that people write. A reader asks for the keys that it
// knows. Every other key, wrong type and value out of range becomes a problem with its
// file, line, column and key, and all problems of a file are found in one go.
//
// Size, depth and the number of values are bounded before the decoder sees them.
package stricttoml
