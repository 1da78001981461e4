package grpcserver

import (
	"bytes"
	"errors"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Keys of check_settings.context_extensions that tell an endpoint's requirement.
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

var errUTF8 = errors.New("a text is not UTF-8")

// exchange is one check: what the core needs of the CheckRequest and, once it is decided, the
// outcome. Whatever is missing in the message is missing in the Request, and a Request without
// a credential is denied. It is one object for the question and the answer, because a check
// then allocates less.
//
// Envoy sends headers either as a map, in which repeated ones are joined with ',',
// or with encode_raw_headers as a list that keeps most of them apart, with the
// values in raw_value (HttpRequest.header_map).
type exchange struct {
	extauthz.Request
	outcome extauthz.Outcome
	mapped  []header // of the map, those of interest
}

// header is a HeaderValue or an entry of a map, which has no raw value. It refers to the message.
type header struct{ name, value, raw []byte }

// read takes the question from the message's bytes. Most of a message is of no interest here, and
// to make objects of all of it costs more than the check itself.
func (q *exchange) read(message []byte) error {
	err := within(message, requestAttributes, func(attributes []byte) error {
		return each(attributes, func(field protowire.Number, value []byte) error {
			switch field {
			case attributesRequest:
				return within(value, requestHTTP, q.readHTTP)
			case attributesExtensions:
				return q.readExtension(value)
			}
			return nil
		})
	})
	for _, h := range q.mapped {
		q.add(h)
	}
	q.mapped = nil // it refers to the message
	return err
}

func (q *exchange) readHTTP(http []byte) error {
	return each(http, func(field protowire.Number, value []byte) error {
		switch field {
		case httpMethod:
			return readText(value, &q.Method)
		case httpPath:
			return readText(value, &q.Path)
		case httpHost:
			return readText(value, &q.Host)
		case httpHeaders:
			h, err := readHeader(value)
			q.put(h)
			return err
		case httpHeaderMap:
			return within(value, headerMapHeaders, func(entry []byte) error {
				h, err := readHeader(entry)
				if len(h.raw) > 0 { // an empty value comes as an entry with neither
					h.value = h.raw
				}
				q.add(h)
				return err
			})
		}
		return nil
	})
}

func (q *exchange) readExtension(entry []byte) error {
	h, err := readHeader(entry)
	switch string(h.name) {
	case scopeExtension:
		q.Route.Set, q.Route.Scope = true, string(h.value)
	case principalExtension:
		q.Route.Set, q.Route.HasPrincipal, q.Route.Principal = true, true, string(h.value)
	}
	return err
}

func readHeader(entry []byte) (h header, err error) {
	err = each(entry, func(field protowire.Number, value []byte) error {
		switch field {
		case headerKey:
			h.name = value
		case headerValue:
			h.value = value
		case headerRawValue:
			h.raw = value
			return nil // these are bytes
		default:
			return nil
		}
		if !utf8.Valid(value) {
			return errUTF8
		}
		return nil
	})
	return h, err
}

// put keeps an entry of the map: of two with one key the later counts.
func (q *exchange) put(h header) {
	if q.place(h.name) == nil {
		return
	}
	had := slices.IndexFunc(q.mapped, func(had header) bool { return bytes.Equal(had.name, h.name) })
	if had >= 0 {
		q.mapped[had] = h
		return
	}
	q.mapped = append(q.mapped, h)
}

func (q *exchange) add(h header) {
	switch list := q.place(h.name); list {
	case nil:
	case &q.Reserved:
		*list = append(*list, string(h.name))
	default:
		*list = append(*list, string(h.value))
	}
}

// place is where a header of that name belongs, nil if it is of no interest.
func (q *exchange) place(name []byte) *[]string {
	if credential.IsReserved(name) {
		return &q.Reserved
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
		return &q.Authorization
	case "cookie":
		return &q.Cookie
	case "origin":
		return &q.Origin
	case "sec-fetch-site":
		return &q.SecFetchSite
	case "content-type":
		return &q.ContentType
	}
	return nil
}

// within calls do for every value of one field.
func within(message []byte, field protowire.Number, do func(value []byte) error) error {
	return each(message, func(number protowire.Number, value []byte) error {
		if number == field {
			return do(value)
		}
		return nil
	})
}

// each calls do for every field of the wire type of texts, bytes and messages, which all are that
// are read; it passes over the others.
func each(message []byte, do func(field protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(field, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// readText reads a string, which protobuf has be UTF-8.
func readText(value []byte, into *string) error {
	if !utf8.Valid(value) {
		return errUTF8
	}
	*into = string(value)
	return nil
}
