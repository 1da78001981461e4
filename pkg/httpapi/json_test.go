package httpapi

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

type item struct {
	Name   string     `json:"name"`
	Count  *int64     `json:"count"`
	On     bool       `json:"on"`
	At     *time.Time `json:"at"`
	Nested []struct {
		Name string `json:"name"`
	} `json:"nested"`
}

func TestDecodeRequest(t *testing.T) {
	for body, want := range map[string]string{
		"":                               "",
		" null\r\n":                      "",
		" ":                              "body must be a JSON object",
		"{}":                             "",
		`{"name":null,"count":null}`:     "",
		`{"count":60.0}`:                 "",
		`{"count":6e1}`:                  "",
		`{"at":"2026-01-02t03:04:05z"}`:  "",
		`null null`:                      "body must be a JSON object",
		`[]`:                             "body must be a JSON object",
		`"name"`:                         "body must be a JSON object",
		`{"name":1}`:                     "name must be a string",
		`{"count":"1"}`:                  "count must be a whole number",
		`{"count":1.5}`:                  "count must be a whole number",
		`{"count":1e300}`:                "count must be a whole number",
		`{"on":1}`:                       "on must be true or false",
		`{"at":1}`:                       "at must be a time as in RFC 3339",
		`{"at":"2026-01-02 03:04:05Z"}`:  "at must be a time as in RFC 3339",
		`{"nested":{}}`:                  "nested must be a list",
		`{"nested":[{"name":"a"},7]}`:    "nested[1] must be an object",
		`{"nested":[{"name":true}]}`:     "nested[0].name must be a string",
		`{"Name":"a"}`:                   "Name is not a known field",
		`{"nested":[{"other":1}]}`:       "nested[0].other is not a known field",
		`{"name":"a","name":"b"}`:        "name is given more than once",
		`{"name":"a"} {}`:                "body is not valid JSON (at byte 13)",
		"{\"name\":\"\xff\"}":            "name is not valid JSON (at byte 9)",
		`{"name":`:                       "name is not valid JSON (at byte 8)",
		`{` + strings.Repeat(`"a":{`, 3): "a is not a known field",
		`{"` + strings.Repeat("x", 1000) + `":1}`: strings.Repeat("x", 64) + " is not a known field",
	} {
		err := DecodeRequest([]byte(body), &item{})
		got := ""
		var problem *JSONError
		if errors.As(err, &problem) {
			got = problem.Field + " " + problem.Problem
		}
		if got != want || (err == nil) != (want == "") {
			t.Errorf("%.80q: got %q (%v), want %q", body, got, err, want)
		}
	}
}

func TestDecodeIgnoresUnknownMembers(t *testing.T) {
	var into item
	if err := Decode([]byte(`{"name":"a","other":{"b":1}}`), &into); err != nil || into.Name != "a" {
		t.Errorf("%+v, %v", into, err)
	}
	if err := Decode([]byte(`{"other":1}`), &into, json.RejectUnknownMembers(true)); err == nil {
		t.Error("no error")
	}
}

func TestErrorOmitsNamesAndValues(t *testing.T) {
	for _, text := range []string{
		`{"secret":1,"secret":2}`, `{"name":["secret"]}`, `{"secret":`, `{"secret":1}`, `"secret"`, `secret`, `{"at":"secret"}`,
	} {
		err := Decode([]byte(text), &item{}, requestOptions)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-01-02T03:04:05Z":        "2026-01-02T03:04:05Z",
		"2026-01-02t03:04:05.5+02:00": "2026-01-02T01:04:05.5Z",
		"2026-01-02T03:04:05,5Z":      "",
		"2026-01-02T3:04:05Z":         "",
		"2026-01-02T03:04:05+24:00":   "",
		"2026-02-30T03:04:05Z":        "",
		"":                            "",
	} {
		at, err := ParseTime(text)
		if got := at.UTC().Format(time.RFC3339Nano); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: got %s, %v, want %q", text, got, err, want)
		}
	}
}
