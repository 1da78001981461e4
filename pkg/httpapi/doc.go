// Package httpapi holds what does not depend on the subject of an HTTP API with JSON bodies. For the server it has
// the handler with its bounds (handler.go), responses and errors (response.go), streams of lines (stream.go) and the
// metrics of requests. For the clients it has the HTTP client (transport.go). Both decode JSON strictly (json.go).
package httpapi
