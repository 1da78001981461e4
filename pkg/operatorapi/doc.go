// Package operatorapi is the client of the key API's operator side, for the
// operator's command line and for whatever else acts as an operator.
//
// A Request is a value that one of the functions named after the operations
// makes; Client.Do carries it out and returns an Answer, Client.Accounts, Keys,
// Sidecars and Events read whole lists, all pages of them. Nothing is ever sent
// twice: after a failure it is the caller who knows whether a repetition does
// harm, and Error.OutcomeUnknown tells that the change may have been made.
package operatorapi
