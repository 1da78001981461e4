package operatorapi

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is every failure of this package. Its text is for people and holds no
// secret.
type Error struct {
	// Status is the HTTP status of the answer; 0 if none came.
	Status int
	// Code and Message are the envelope's error and message; where no envelope came
	// Code is "" and Message tells what did.
	Code, Message string
	// OutcomeUnknown: the request asked for a change, and the change may have been
	// made although no good answer came.
	OutcomeUnknown bool
	// Cause is what lies beneath, where there is something.
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

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Cause }

// refusal makes an Error of an answer that is no success.
func refusal(status int, body []byte, mutates bool) *Error {
	// After a failure of the API's own nobody can say whether its store has committed; a
	// success of another kind than the contract's is one all the same.
	unknown := mutates && (status >= http.StatusInternalServerError || status < http.StatusMultipleChoices)
	var envelope struct {
		Error      string `json:"error"`
		Message    string `json:"message"`
		StatusCode int    `json:"statusCode"`
	}
	if decode(body, &envelope) != nil || envelope.Error == "" || envelope.StatusCode != status {
		return &Error{
			Status: status, OutcomeUnknown: unknown,
			Message: fmt.Sprintf("status %d without the key API's error envelope: is this the operators' listener?", status),
		}
	}
	return &Error{Status: status, Code: envelope.Error, Message: envelope.Message, OutcomeUnknown: unknown}
}

func asError[T error](err error) (T, bool) {
	var target T
	ok := errors.As(err, &target)
	return target, ok
}
