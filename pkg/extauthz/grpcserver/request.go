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
// one object, so that a check allocates less. A field that is missing in the message is zero.
//
// Envoy sends headers either as a map, in which repeated ones are joined with ',', or with
// encode_raw_headers as a list that keeps most of them separate, with the values in raw_value
// (HttpRequest.header_map).
type exchange struct {
	extauthz.Request
	outcome extauthz.Outcome
	mapped  []header // relevant entries of the map; refer to the message
}

// header is a HeaderValue or an entry of a map, which has no raw value. It refers to the message.
type header struct{ name, value, raw []byte }

// read reads a CheckRequest, most of which it skips.
func (x *exchange) read(message []byte) error {
	err := within(message, requestAttributes, func(attributes []byte) error {
		return each(attributes, func(field protowire.Number, value []byte) error {
			switch field {
			case attributesRequest:
				return within(value, requestHTTP, x.readHTTP)
			case attributesExtensions:
				return x.readExtension(value)
			}
			return nil
		})
	})
	for _, h := range x.mapped {
		x.add(h)
	}
	x.mapped = nil
	return err
}

func (x *exchange) readHTTP(http []byte) error {
	return each(http, func(field protowire.Number, value []byte) error {
		switch field {
		case httpMethod:
			return readText(value, &x.Method)
		case httpPath:
			return readText(value, &x.Path)
		case httpHost:
			return readText(value, &x.Host)
		case httpHeaders:
			h, err := readHeader(value)
			x.put(h)
			return err
		case httpHeaderMap:
			return within(value, headerMapHeaders, func(entry []byte) error {
				h, err := readHeader(entry)
				if len(h.raw) > 0 { // an empty value is an entry without both
					h.value = h.raw
				}
				x.add(h)
				return err
			})
		}
		return nil
	})
}

func (x *exchange) readExtension(entry []byte) error {
	h, err := readHeader(entry)
	switch string(h.name) {
	case scopeExtension:
		x.Route.Set, x.Route.Scope = true, string(h.value)
	case principalExtension:
		x.Route.Set, x.Route.HasPrincipal, x.Route.Principal = true, true, string(h.value)
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
			return nil // may be any bytes
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

// put stores an entry of the map. Of two with the same key the later wins.
func (x *exchange) put(h header) {
	if x.place(h.name) == nil {
		return
	}
	if i := slices.IndexFunc(x.mapped, func(other header) bool { return bytes.Equal(other.name, h.name) }); i >= 0 {
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
		*list = append(*list, string(h.name))
	default:
		*list = append(*list, string(h.value))
	}
}

// place returns the list to which a header of that name belongs, nil if it is irrelevant.
func (x *exchange) place(name []byte) *[]string {
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

// within calls do for each value of one field.
func within(message []byte, field protowire.Number, do func(value []byte) error) error {
	return each(message, func(number protowire.Number, value []byte) error {
		if number == field {
			return do(value)
		}
		return nil
	})
}

// each calls do for each field of the wire type of strings, bytes and messages, and skips the
// others.
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

// readText reads a string, which must be UTF-8 in protobuf.
func readText(value []byte, into *string) error {
	if !utf8.Valid(value) {
		return errUTF8
	}
	*into = string(value)
	return nil
}
