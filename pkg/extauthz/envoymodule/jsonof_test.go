package envoymodule

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func message(t testing.TB, fields map[string]any) []byte {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A Struct is read from its JSON and from its message. Everything else is passed on as it is.
func TestStructIsReadInBothForms(t *testing.T) {
	fields := map[string]any{"scope": "chat:companion more", "n": 1e6, "list": []any{true, nil, "é<>"}, "in": map[string]any{"x": ""}}
	var got map[string]any
	if err := json.Unmarshal(jsonOf(message(t, fields)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fields, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, text := range []string{
		"", "{}", `{"scope":"x"}`, "\n{\"scope\": \"x\"}\n", "\nscope: x\n", "\n", "\n\n", "\n\x00",
		string(message(t, map[string]any{"x": true})) + "\x12\x00",                // has an unknown field
		string(message(t, map[string]any{"x": math.NaN()})),                       // has no JSON
		"\nscope: " + strings.Repeat("x", 200), "\n" + strings.Repeat("#\n", 100), // 0x73 and 0x23 as lengths
	} {
		if got := jsonOf([]byte(text)); string(got) != text {
			t.Errorf("%q is %q", text, got)
		}
	}
}

// The functions of Module may keep the bytes that they get: Envoy's are gone afterwards.
func TestConfigurationIsCopied(t *testing.T) {
	for _, text := range [][]byte{[]byte("{}"), message(t, map[string]any{"x": "y"})} {
		got := jsonOf(text)
		want := bytes.Clone(got)
		overwrite(text)
		if !bytes.Equal(got, want) {
			t.Errorf("%q is %q", want, got)
		}
	}
}

// FuzzJSONOf tests of any bytes that nothing of them is lost: they are passed on, or are a message
// of the same content.
func FuzzJSONOf(f *testing.F) {
	for _, text := range []string{"", "{}", "\n{}", "\n\x02\n\x00", "\nscope: x", "\n\x00\n\x00", "\n\x02\n\x00\x12\x00"} {
		f.Add([]byte(text))
	}
	f.Add(message(f, map[string]any{"scope": "a", "principal": "key", "n": 4e2, "l": []any{nil}}))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := jsonOf(text)
		if bytes.Equal(got, text) {
			return
		}
		var message, fields structpb.Struct
		if err := proto.Unmarshal(text, &message); err != nil {
			t.Fatalf("%q is not a message and became %q", text, got)
		}
		if err := known.Unmarshal(text, &fields); err != nil || !proto.Equal(&message, &fields) {
			t.Fatalf("%q became %q without its unknown fields (%v)", text, got, err)
		}
		var read map[string]any
		if err := json.Unmarshal(got, &read); err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		if diff := cmp.Diff(message.AsMap(), read); diff != "" {
			t.Fatalf("%q became %q (-message +JSON):\n%s", text, got, diff)
		}
	})
}
