// Package httpapi holds what an HTTP API with JSON bodies needs on both of its sides, whatever
// the API is about: strict decoding of JSON and the HTTP client.
package httpapi
