// Package daemon is the frame of a program that serves until it is told to stop:
// flags and exit codes, the log, metrics, the admin listener, listeners that a
// successor takes over, a named stack of what runs, signals, reload and a bounded
// drain. It knows nothing of what the program does.
//
// A program is a value of Program; its main is
//
//	func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
//
// The life of a program:
//
//	load the configuration          a mistake: exit 2, nothing was started
//	admin listener
//	Program.Start                   opens what it needs and adds it to Runtime's stack, lowest first
//	listeners are published         Unix sockets are renamed into place only now: a start that fails takes nothing away
//	ready                           as soon as every readiness check says so
//	SIGHUP, changed file: reload    a bad file changes nothing
//	SIGTERM: delay                  not ready, but answering for Settings.DrainDelay
//	then, or SIGINT: drain          not ready, then the stack is stopped from the top, within the drain time;
//	                                who has connected to a server over HTTP is still answered
//	exit 0                          1 after a failed start, a component that died, or a second signal
package daemon
