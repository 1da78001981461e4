package grpcserver

import (
	"errors"
	"slices"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Keys of check_settings.context_extensions that hold an endpoint's requirement.
const (
	scopeExtension     = "scope"
	principalExtension = "principal"
)

// Numbers of the fields that are read (envoy/service/auth/v3/external_auth.proto and
// attribute_context.proto, envoy/config/core/v3/base.proto).
const (
	requestAttributes    = 1  // CheckRequest
	attributesRequest    = 4  // AttributeContext
	attributesExtensions = 10 // a map
	requestHTTP          = 2  // AttributeContext.Request
	httpMethod           = 2  // AttributeContext.HttpRequest
	httpHeaders          = 3  // a map
	httpPath             = 4
	httpHost             = 5
	httpHeaderMap        = 13
	headerMapHeaders     = 1 // HeaderMap, of HeaderValue
	headerKey            = 1 // HeaderValue; an entry of a map has the first two as well
	headerValue          = 2
	headerRawValue       = 3
)

var errUTF8 = errors.New("string is invalid: must be UTF-8")

// exchange is one check: the Request of its CheckRequest and, after the decision, the outcome. It is
// one object with room for the usual headers, and all strings of the Request are parts of one copy
// of the message, so that a check allocates less. A field that is missing in the message is zero.
//
// Envoy sends headers either as a map, in which repeated ones are joined with ',', or with
// encode_raw_headers as a list that keeps most of them separate, with the values in raw_value
// (HttpRequest.header_map).
//
// An exchange is not pooled. If grpc-go ever encoded an answer twice, the second one would be that of
// another check.
type exchange struct {
	extauthz.Request
	outcome extauthz.Outcome
	mapped  []header // relevant entries of the map
	// room is for the first string of each list. Smaller allocates for more of the lists; larger
	// allocates more for all checks.
	room [4]string
	used int        // strings of room
	span trace.Span // nil outside of a recorded trace
}

// part is a part of a message: its bytes, which are parsed, and the same bytes of the message's
// copy, of which the Request keeps strings.
type part struct {
	bytes []byte
	text  string
}

// header is a HeaderValue or an entry of a map, which has no raw value.
type header struct{ name, value, raw string }

// read reads a CheckRequest, most of which it skips.
func (x *exchange) read(message []byte) error {
	s := scanner{rest: part{message, string(message)}}
	for s.next() {
		if s.field == requestAttributes {
			s.err = x.readAttributes(s.value)
		}
	}
	for _, h := range x.mapped {
		x.add(h)
	}
	x.mapped = nil
	return s.err
}

func (x *exchange) readAttributes(attributes part) error {
	s := scanner{rest: attributes}
	for s.next() {
		switch s.field {
		case attributesRequest:
			s.err = x.readRequest(s.value)
		case attributesExtensions:
			s.err = x.readExtension(s.value)
		}
	}
	return s.err
}

func (x *exchange) readRequest(request part) error {
	s := scanner{rest: request}
	for s.next() {
		if s.field == requestHTTP {
			s.err = x.readHTTP(s.value)
		}
	}
	return s.err
}

func (x *exchange) readHTTP(http part) error {
	s := scanner{rest: http}
	for s.next() {
		switch s.field {
		case httpMethod:
			x.Method, s.err = s.value.string()
		case httpPath:
			x.Path, s.err = s.value.string()
		case httpHost:
			x.Host, s.err = s.value.string()
		case httpHeaders:
			var h header
			h, s.err = readHeader(s.value)
			x.put(h)
		case httpHeaderMap:
			s.err = x.readHeaderMap(s.value)
		}
	}
	return s.err
}

func (x *exchange) readHeaderMap(list part) error {
	s := scanner{rest: list}
	for s.next() {
		if s.field == headerMapHeaders {
			var h header
			h, s.err = readHeader(s.value)
			if h.raw != "" { // an empty value is an entry without both
				h.value = h.raw
			}
			x.add(h)
		}
	}
	return s.err
}

func (x *exchange) readExtension(entry part) error {
	h, err := readHeader(entry)
	switch h.name {
	case scopeExtension:
		x.Route.Set, x.Route.Scope = true, h.value
	case principalExtension:
		x.Route.Set, x.Route.HasPrincipal, x.Route.Principal = true, true, h.value
	}
	return err
}

func readHeader(entry part) (h header, err error) {
	s := scanner{rest: entry}
	for s.next() {
		switch s.field {
		case headerKey:
			h.name, s.err = s.value.string()
		case headerValue:
			h.value, s.err = s.value.string()
		case headerRawValue:
			h.raw = s.value.text // may be any bytes
		}
	}
	return h, s.err
}

// put stores an entry of the map. Of two with the same key the later wins.
func (x *exchange) put(h header) {
	if x.place(h.name) == nil {
		return
	}
	if i := slices.IndexFunc(x.mapped, func(other header) bool { return other.name == h.name }); i >= 0 {
		x.mapped[i] = h
		return
	}
	x.mapped = append(x.mapped, h)
}

// add adds a header to the Request.
func (x *exchange) add(h header) {
	switch list := x.place(h.name); list {
	case nil:
	case &x.Reserved:
		x.append(list, h.name)
	default:
		x.append(list, h.value)
	}
}

// append appends to a list, of which the first string is in x.room as long as that has room.
func (x *exchange) append(list *[]string, text string) {
	if *list == nil && x.used < len(x.room) {
		*list = x.room[x.used : x.used : x.used+1]
		x.used++
	}
	*list = append(*list, text)
}

// place returns the list to which a header of that name belongs, nil if it is irrelevant.
func (x *exchange) place(name string) *[]string {
	if credential.IsReserved(name) {
		return &x.Reserved
	}
	var lower [len("sec-fetch-site")]byte
	n := copy(lower[:], name)
	for i, c := range lower[:n] {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + ('a' - 'A')
		}
	}
	if len(name) > n {
		return nil
	}
	switch string(lower[:n]) {
	case "authorization":
		return &x.Authorization
	case "cookie":
		return &x.Cookie
	case "origin":
		return &x.Origin
	case "sec-fetch-site":
		return &x.SecFetchSite
	case "content-type":
		return &x.ContentType
	}
	return nil
}

// scanner reads the fields of a message that have the wire type of strings, bytes and messages, and
// skips the others. It stops at the first error, also of its caller.
type scanner struct {
	rest  part
	field protowire.Number
	value part
	err   error
}

// next reads the next field and reports whether there is one.
func (s *scanner) next() bool {
	for s.err == nil && len(s.rest.bytes) > 0 {
		field, kind, n := protowire.ConsumeTag(s.rest.bytes)
		if n < 0 {
			s.err = protowire.ParseError(n)
			return false
		}
		s.rest = s.rest.from(n)
		var value []byte
		if kind == protowire.BytesType {
			value, n = protowire.ConsumeBytes(s.rest.bytes)
		} else {
			n = protowire.ConsumeFieldValue(field, kind, s.rest.bytes)
		}
		if n < 0 {
			s.err = protowire.ParseError(n)
			return false
		}
		text := s.rest.text[n-len(value) : n]
		s.rest = s.rest.from(n)
		if kind == protowire.BytesType {
			s.field, s.value = field, part{value, text}
			return true
		}
	}
	return false
}

// from returns p without its first n bytes.
func (p part) from(n int) part { return part{p.bytes[n:], p.text[n:]} }

// string returns a string, which must be UTF-8 in protobuf.
func (p part) string() (string, error) {
	if !utf8.Valid(p.bytes) {
		return "", errUTF8
	}
	return p.text, nil
}
