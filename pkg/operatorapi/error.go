package operatorapi

import (
	"fmt"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// Error is the error of all functions of this package. Its text holds no secret.
type Error struct {
	// Status is the HTTP status of the response; 0 if there was none.
	Status int
	// Code and Message are error and message of the response's error envelope. Code is "" if
	// there was none; Message then says what happened.
	Code, Message string
	// OutcomeUnknown reports that the change that was requested may have been made.
	OutcomeUnknown bool
	// Cause is the underlying error, or nil.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Code != "":
		return fmt.Sprintf("%s (%d %s)", e.Message, e.Status, e.Code)
	case e.Cause != nil:
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func invalidResponse(r Request, status int, cause error) *Error {
	return &Error{Status: status, Message: "invalid response", OutcomeUnknown: r.mutates(), Cause: cause}
}

// statusError makes an Error of a response whose status is not a success of the operation.
func statusError(status int, body []byte, mutates bool) *Error {
	// After a 5xx the store may have committed. A 2xx that the contract does not define is a success too.
	unknown := mutates && (status >= http.StatusInternalServerError || status < http.StatusMultipleChoices)
	var envelope struct {
		Error      string `json:"error"`
		Message    string `json:"message"`
		StatusCode int    `json:"statusCode"`
	}
	if httpapi.Decode(body, &envelope) != nil || envelope.Error == "" || envelope.StatusCode != status {
		return &Error{
			Status: status, OutcomeUnknown: unknown,
			Message: fmt.Sprintf("status %d without the key API's error envelope: is this its listener for operators?", status),
		}
	}
	return &Error{Status: status, Code: envelope.Error, Message: envelope.Message, OutcomeUnknown: unknown}
}
