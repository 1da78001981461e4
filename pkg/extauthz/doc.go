// Package extauthz is the check: from what a proxy tells of a request to the
// answer that it gets. It knows neither Envoy's messages nor a transport; a front,
// in a folder beside this file, reads its wire format into a Request and writes
// the Answer out. So there is one core and one set of tests, whatever the front.
//
// One check passes through check.go, which reads the credential (request.go),
// asks the Source for the facts, finds the requirement, has policy judge, and
// renders the answer (response.go). A hit in the Source's memory does no I/O.
package extauthz
