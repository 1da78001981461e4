// Package httpapi holds what the server and the clients of an HTTP API with JSON bodies share: strict
// decoding of JSON and the HTTP client. It does not depend on the API's subject.
package httpapi
