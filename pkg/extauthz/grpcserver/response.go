package grpcserver

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Numbers of the fields that are written (envoy/service/auth/v3/external_auth.proto,
// envoy/config/core/v3/base.proto, google/rpc/status.proto, google/protobuf/struct.proto).
const (
	responseStatus   = 1 // CheckResponse
	responseDenied   = 2
	responseOK       = 3
	responseMetadata = 4
	statusCode       = 1 // google.rpc.Status and HttpStatus
	deniedStatus     = 1 // DeniedHttpResponse
	deniedHeaders    = 2
	deniedBody       = 3
	okHeaders        = 2 // OkHttpResponse
	okRemove         = 5
	optionHeader     = 1 // HeaderValueOption, of a HeaderValue
	optionAppend     = 2
	structFields     = 1 // Struct, a map
	entryKey         = 1 // an entry of a map
	entryValue       = 2
	valueText        = 3 // Value
	valueList        = 6
	listValues       = 1 // ListValue
)

// write appends the CheckResponse of an answer. Envoy treats status.code 0 and an unset status as an
// allow, even beside a denied_response, so a denial never has either.
func write(b []byte, a *extauthz.Answer) []byte {
	if a.Allow {
		b = nested(b, responseStatus, func(b []byte) []byte { return b }) // code 0
		b = nested(b, responseOK, func(b []byte) []byte {
			b = headers(b, okHeaders, a.Set)
			for _, name := range a.Remove {
				b = protowire.AppendString(protowire.AppendTag(b, okRemove, protowire.BytesType), name)
			}
			return b
		})
		return metadata(b, &a.Meta)
	}
	code := a.Code
	if code == int32(codes.OK) {
		code = int32(codes.Unavailable)
	}
	b = nested(b, responseStatus, func(b []byte) []byte { return number(b, statusCode, int(code)) })
	b = nested(b, responseDenied, func(b []byte) []byte {
		b = nested(b, deniedStatus, func(b []byte) []byte { return number(b, statusCode, a.Status) })
		b = headers(b, deniedHeaders, a.Set)
		return text(b, deniedBody, a.Body)
	})
	return metadata(b, &a.Meta)
}

// headers appends headers that overwrite. Envoy ignores append_action here; the deprecated append, a
// BoolValue of false, overwrites in every version. Envoy reads only value: a header with raw_value
// alone would be set to the empty string.
func headers(b []byte, field protowire.Number, list []extauthz.Header) []byte {
	for _, h := range list {
		b = nested(b, field, func(b []byte) []byte {
			b = nested(b, optionHeader, func(b []byte) []byte { return text(text(b, headerKey, h.Name), headerValue, h.Value) })
			return nested(b, optionAppend, func(b []byte) []byte { return b })
		})
	}
	return b
}

func metadata(b []byte, m *extauthz.Metadata) []byte {
	return nested(b, responseMetadata, func(b []byte) []byte {
		for _, t := range m.Texts() {
			if t.Value != "" {
				b = entry(b, t.Key, func(b []byte) []byte { return textValue(b, t.Value) })
			}
		}
		if m.Principal == "" {
			return b
		}
		return entry(b, "scopes", func(b []byte) []byte {
			return nested(b, valueList, func(b []byte) []byte {
				for i := range m.Scopes.Len() {
					b = nested(b, listValues, func(b []byte) []byte { return textValue(b, m.Scopes.At(i)) })
				}
				return b
			})
		})
	})
}

// entry appends an entry of a Struct.
func entry(b []byte, name string, value func(b []byte) []byte) []byte {
	return nested(b, structFields, func(b []byte) []byte { return nested(text(b, entryKey, name), entryValue, value) })
}

// textValue appends a Value of a string, also of an empty one, because Value is a oneof.
func textValue(b []byte, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, valueText, protowire.BytesType), value)
}

// text and number omit the zero value, as proto3 does.
func text(b []byte, field protowire.Number, value string) []byte {
	if value == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), value)
}

func number(b []byte, field protowire.Number, value int) []byte {
	if value == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(value))
}

// nested appends the message that inner appends, after its length.
func nested(b []byte, field protowire.Number, inner func(b []byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	start := len(b)
	b = inner(append(b, 0)) // the length of most takes one byte
	length := uint64(len(b) - start - 1)
	if more := protowire.SizeVarint(length) - 1; more > 0 {
		b = append(b, make([]byte, more)...)
		copy(b[start+1+more:], b[start+1:])
	}
	protowire.AppendVarint(b[:start], length)
	return b
}
