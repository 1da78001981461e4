package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// document is the OpenAPI document that keyd serves.
var document struct {
	once sync.Once
	doc  *openapi3.T
	err  error
}

// loadDocument loads a document. Its objects with properties must have no others.
func loadDocument(url string) (*openapi3.T, error) {
	raw, err := testbed.Get(context.Background(), url)
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		return nil, err
	}
	return doc, doc.WalkSchemas(func(_ string, s *openapi3.SchemaRef) error {
		if len(s.Value.Properties) > 0 {
			s.Value.AdditionalProperties.Has = new(bool)
		}
		return nil
	})
}

// checked are the exchanges that were compared: tests repeat some of them hundreds of times.
var checked sync.Map

// checkDocumented compares an exchange with the OpenAPI document that keyd serves.
func (p *process) checkDocumented(r *http.Request, sent string, status int, header http.Header, body []byte) {
	p.t.Helper()
	if _, repeated := checked.LoadOrStore(fmt.Sprint(r.Method, r.URL.Path, r.URL.RawQuery, sent, status, header["Content-Type"], string(body)), true); repeated {
		return
	}
	if err := p.documented(r, sent, status, header, body); err != nil {
		p.t.Errorf("%s %s: %d %.300s differs from openapi.yaml: %v", r.Method, r.URL, status, body, err)
	}
}

func (p *process) documented(r *http.Request, sent string, status int, header http.Header, body []byte) error {
	document.once.Do(func() {
		document.doc, document.err = loadDocument("http://" + p.Addresses["listen.operators"] + "/openapi.yaml")
	})
	doc, err := document.doc, document.err
	if err != nil {
		return err
	}
	item, path, values := find(doc, r.URL.Path)
	if item == nil || item.GetOperation(r.Method) == nil {
		if status < 400 {
			return errors.New("undocumented, but accepted")
		}
		return nil
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, SkipSettingDefaults: true}
	again := r.Clone(context.Background())
	again.Body, again.ContentLength = io.NopCloser(strings.NewReader(sent)), int64(len(sent))
	input := &openapi3filter.RequestValidationInput{
		Request: again, PathParams: values, Options: options,
		Route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)},
	}
	if status < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: status, Header: header, Options: options}
	if err := openapi3filter.ValidateResponse(context.Background(), answer.SetBodyBytes(body)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// find returns the documented path that matches, and the values of its parameters.
func find(doc *openapi3.T, path string) (*openapi3.PathItem, string, map[string]string) {
	if item := doc.Paths.Value(path); item != nil {
		return item, path, nil
	}
	parts := strings.Split(path, "/")
	for template, item := range doc.Paths.Map() {
		segments, values := strings.Split(template, "/"), map[string]string{}
		if len(segments) != len(parts) {
			continue
		}
		for i, segment := range segments {
			if name, isName := strings.CutPrefix(segment, "{"); isName {
				values[strings.TrimSuffix(name, "}")] = parts[i]
			} else if segment != parts[i] {
				values = nil
				break
			}
		}
		if values != nil {
			return item, template, values
		}
	}
	return nil, "", nil
}

func TestUndocumentedExchangeIsDetected(t *testing.T) {
	p := launch(t, configure(t, ""))
	r, err := http.NewRequest("POST", "http://keyd/v1/accounts", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	const sent, good = `{"name":"Ann"}`, `{"account":{"id":"a","name":"Ann","state":"active","created_at":"2026-01-02T03:04:05Z","terminated_at":null}}`
	isJSON := http.Header{"Content-Type": {"application/json"}}
	if err := p.documented(r, sent, 201, isJSON, []byte(good)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"additional field":    p.documented(r, sent, 201, isJSON, bytes.Replace([]byte(good), []byte(`"id"`), []byte(`"digest":"x","id"`), 1)),
		"missing field":       p.documented(r, sent, 201, isJSON, bytes.Replace([]byte(good), []byte(`"name":"Ann",`), nil, 1)),
		"undocumented status": p.documented(r, sent, 200, isJSON, []byte(good)),
		"invalid request":     p.documented(r, `{"nam":"Ann"}`, 201, isJSON, []byte(good)),
		"wrong envelope":      p.documented(r, sent, 409, isJSON, []byte(`{"error":"NOT_FOUND","message":"x","statusCode":409}`)),
		"503 without header":  p.documented(r, sent, 503, isJSON, []byte(`{"error":"SERVICE_UNAVAILABLE","message":"x","statusCode":503}`)),
	} {
		if err == nil {
			t.Errorf("%s is not detected", name)
		}
	}
}
