package keyserver

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

// decode reads the body, a JSON object, into a struct. Names are case-sensitive;
// an unknown or repeated one is refused. No body at all, and null, are an object without
// fields. Its errors name the field and never repeat a value.
func decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	body = bytes.Trim(body, " \t\r\n")
	switch {
	case string(body) == "null":
		return nil
	case !bytes.HasPrefix(body, []byte("{")):
		return badRequest("body", "must be a JSON object")
	}
	err := json.Unmarshal(body, into, json.RejectUnknownMembers(true), json.WithUnmarshalers(lenient))
	if err == nil {
		return nil
	}
	var syntax *jsontext.SyntacticError
	var meaning *json.SemanticError
	switch {
	case errors.As(err, &syntax) && errors.Is(err, jsontext.ErrDuplicateName):
		return badRequest(fieldName(syntax.JSONPointer), "is there more than once")
	case errors.As(err, &syntax):
		return badRequest(fieldName(syntax.JSONPointer), "is not valid JSON (at byte %d)", syntax.ByteOffset)
	case errors.As(err, &meaning) && errors.Is(err, json.ErrUnknownName):
		return badRequest(fieldName(meaning.JSONPointer), "is not a known field")
	case errors.As(err, &meaning):
		return badRequest(fieldName(meaning.JSONPointer), "must be %s", wanted(meaning.GoType))
	}
	return badRequest("body", "is not what is expected here")
}

// lenient reads values in all forms that mean the same.
var lenient = json.JoinUnmarshalers(wholeNumbers, times)

// times reads what parseTime does.
var times = json.UnmarshalFromFunc(func(dec *jsontext.Decoder, into *time.Time) error {
	if dec.PeekKind() != jsontext.KindString {
		return errors.ErrUnsupported // as ever
	}
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if *into, err = parseTime(token.String()); err != nil {
		return &json.SemanticError{Err: errTime} // the cause repeats the value
	}
	return nil
})

var errTime = errors.New("not a time as in RFC 3339")

// timeForm is date-time of RFC 3339, section 5.6. time.Parse alone reads more.
var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// parseTime reads a time of RFC 3339, where "t" and "z" mean the same as "T" and "Z" (section 5.6).
func parseTime(text string) (time.Time, error) {
	text = strings.ToUpper(text)
	if !timeForm.MatchString(text) {
		return time.Time{}, errTime
	}
	return time.Parse(time.RFC3339, text)
}

// wholeNumbers reads 60.0 and 6e1 as 60, which they are: some clients write every
// number so.
var wholeNumbers = json.UnmarshalFromFunc(func(dec *jsontext.Decoder, into *int64) error {
	if dec.PeekKind() != jsontext.KindNumber {
		return errors.ErrUnsupported // as ever
	}
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if *into, err = strconv.ParseInt(string(value), 10, 64); err == nil {
		return nil
	}
	const exact = 1 << 53 // beyond it a float is not the number that was written
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return &json.SemanticError{Err: strconv.ErrRange}
	}
	*into = int64(f)
	return nil
})

// fieldName makes a pointer readable: credentials[3].sha256. What a caller may have
// put there is shortened.
func fieldName(p jsontext.Pointer) string {
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
		return "body"
	}
	return b.String()
}

func wanted(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	if t == reflect.TypeFor[time.Time]() {
		return "a time as in RFC 3339"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
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
