// Package wire is HTTP/1.1 as a gateway reads and writes it: heads and bodies of requests,
// heads of answers, fields, and refusals as their clients are told. It reads from whatever it
// is given and knows no socket, route or instance.
//
// What its parser takes, net/http reads in the same way; it refuses more. Everything that it
// reads is bounded, and memory for what is large comes from a Budget.
package wire
