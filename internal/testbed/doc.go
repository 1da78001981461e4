// Package testbed runs keyd and authzd as the processes that they are, for the
// fault tests and the benchmarks: it writes their configuration, starts, signals
// and reads them, speaks to authzd as Envoy does, and searches what they leave
// behind for secrets.
//
// All their addresses but the admin listeners' are Unix sockets in the site's
// folder, so that a program that is started anew is where its predecessor was.
package testbed
