// Package testbed runs programs as child processes, for the tests of the running programs, the benchmarks and the demo.
//
// A Process is one program: it is started, awaited, signalled and stopped, and its log is a file. A Stack starts several
// in order and stops them in reverse order. A Testbed is a Stack of one keyd and its sidecars, in a folder with their
// configuration, tokens and database. All addresses but those of the admin listeners are Unix sockets in that folder, so a
// restarted program has the address of its predecessor. A Testbed also sends checks as Envoy does, and searches what
// the programs write and show for secrets.
package testbed
