package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// JSONError is the reason why a JSON text is rejected. It never repeats a value of the text.
type JSONError struct {
	Field   string // path of the field, such as credentials[3].sha256, or "body"; its names may come from the text
	Problem string // what is wrong with the field
	offset  int64  // of the field in bytes, or 0 if Problem has it
}

// Error implements error. It omits Field because the sender of the text may have chosen its names.
func (e *JSONError) Error() string {
	if e.offset > 0 {
		return fmt.Sprintf("JSON value at byte %d %s", e.offset, e.Problem)
	}
	return "body " + e.Problem
}

// Decode reads a single JSON value. Member names are case-sensitive. Repeated members, invalid
// UTF-8 and data after the value are errors. Unknown members are ignored unless opts reject them.
// The error is a *JSONError.
func Decode(text []byte, into any, opts ...json.Options) error {
	err := json.Unmarshal(text, into, opts...)
	if err == nil {
		return nil
	}
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntax) && errors.Is(err, jsontext.ErrDuplicateName):
		return &JSONError{fieldPath(syntax.JSONPointer), "is given more than once", syntax.ByteOffset}
	case errors.As(err, &syntax):
		return &JSONError{fieldPath(syntax.JSONPointer), fmt.Sprintf("is not valid JSON (at byte %d)", syntax.ByteOffset), 0}
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return &JSONError{fieldPath(semantic.JSONPointer), "is not a known field", semantic.ByteOffset}
	case errors.As(err, &semantic):
		return &JSONError{fieldPath(semantic.JSONPointer), "must be " + typeName(semantic.GoType), semantic.ByteOffset}
	}
	return &JSONError{Field: wholeBody, Problem: "is not valid"}
}

// DecodeRequest reads the body of a request, a JSON object, into a struct. It also rejects unknown
// members. An empty body and null are an object without members. Whole numbers may be written as
// 60.0 or 6e1, and times as ParseTime reads them. The error is a *JSONError.
func DecodeRequest(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	body = bytes.Trim(body, " \t\r\n")
	switch {
	case string(body) == "null":
		return nil
	case !bytes.HasPrefix(body, []byte("{")):
		return &JSONError{Field: wholeBody, Problem: "must be a JSON object"}
	}
	return Decode(body, into, requestOptions)
}

var requestOptions = json.JoinOptions(
	json.RejectUnknownMembers(true),
	json.WithUnmarshalers(json.JoinUnmarshalers(json.UnmarshalFromFunc(decodeInt), json.UnmarshalFromFunc(decodeTime))),
)

// timeForm is date-time of RFC 3339, section 5.6. time.Parse accepts more.
var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

var errTime = errors.New("not a time as in RFC 3339")

// ParseTime parses a time of RFC 3339, where "t" and "z" mean the same as "T" and "Z" (section 5.6).
func ParseTime(text string) (time.Time, error) {
	text = strings.ToUpper(text)
	if !timeForm.MatchString(text) {
		return time.Time{}, errTime
	}
	return time.Parse(time.RFC3339, text)
}

func decodeTime(dec *jsontext.Decoder, into *time.Time) error {
	if dec.PeekKind() != jsontext.KindString {
		return errors.ErrUnsupported // the default decoder reports the error
	}
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if *into, err = ParseTime(token.String()); err != nil {
		return &json.SemanticError{Err: errTime} // the error of time.Parse repeats the value
	}
	return nil
}

func decodeInt(dec *jsontext.Decoder, into *int64) error {
	if dec.PeekKind() != jsontext.KindNumber {
		return errors.ErrUnsupported // the default decoder reports the error
	}
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if *into, err = strconv.ParseInt(string(value), 10, 64); err == nil {
		return nil
	}
	const exact = 1 << 53 // a larger float64 may differ from the number in the text
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return &json.SemanticError{Err: strconv.ErrRange}
	}
	*into = int64(f)
	return nil
}

const wholeBody = "body"

// fieldPath formats a pointer for people, as in credentials[3].sha256. It bounds the length
// because the names may come from the text.
func fieldPath(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		switch {
		case b.Len() > 0 && strings.Trim(token, "0123456789") == "":
			fmt.Fprintf(&b, "[%.8s]", token)
		case b.Len() > 0:
			fmt.Fprintf(&b, ".%.64s", token)
		default:
			fmt.Fprintf(&b, "%.64s", token)
		}
		if b.Len() > 200 {
			break
		}
	}
	if b.Len() == 0 {
		return wholeBody
	}
	return b.String()
}

func typeName(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	if t == reflect.TypeFor[time.Time]() {
		return "a time as in RFC 3339"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Struct:
		return "an object"
	default:
		return "of another type"
	}
}
