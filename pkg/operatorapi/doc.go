// Package operatorapi is the client of the key API's operator side, and its wire types.
//
// Functions named after the operations make a Request. Client.Do sends it and returns an Answer.
// Client.Accounts, Keys, Sidecars and Events read whole lists, all pages of them. No request is
// repeated, because only the caller knows whether a repetition does harm. After a failure,
// Error.OutcomeUnknown reports that the change may have been made.
package operatorapi
