// Package daemon is the frame of a program that serves until it receives a signal: flags and exit
// codes, log, metrics, admin listener, listeners that a successor can take over, a stack of named
// components, signals, reload and a bounded drain. It is independent of what the program does.
//
// A program is a value of Program. Its main is
//
//	func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
//
// A program runs through these steps:
//
//	load the configuration            a mistake: exit 2, nothing was started
//	admin listener
//	Program.Start                     adds components to the Runtime's stack, lowest first
//	publish the listeners             Unix sockets are renamed into place only now, so a failed start takes nothing away
//	ready                             when all readiness checks pass
//	SIGHUP, changed file: reload      an invalid file changes nothing
//	SIGTERM: delay                    not ready, but answering for Settings.DrainDelay
//	then, or on SIGINT: drain         the stack is stopped from the top, within the drain time; HTTP requests of
//	                                  connections that clients have made are still answered
//	exit 0                            1 after a failed start, an exited component or a second signal
package daemon
