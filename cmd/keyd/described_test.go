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
)

// document is what keyd serves at /openapi.yaml, with one more rule for every object in it that
// names its fields: it has no others.
var document struct {
	once sync.Once
	doc  *openapi3.T
	err  error
}

func (p *process) document() (*openapi3.T, error) {
	document.once.Do(func() {
		resp, err := http.Get("http://" + p.addr["listen.operators"] + "/openapi.yaml")
		if err != nil {
			document.err = err
			return
		}
		defer func() { _ = resp.Body.Close() }()
		raw, err := io.ReadAll(resp.Body)
		if err == nil {
			document.doc, err = openapi3.NewLoader().LoadFromData(raw)
		}
		if err == nil {
			no := false
			err = document.doc.WalkSchemas(func(_ string, s *openapi3.SchemaRef) error {
				if len(s.Value.Properties) > 0 {
					s.Value.AdditionalProperties.Has = &no
				}
				return nil
			})
		}
		document.err = err
	})
	return document.doc, document.err
}

// described compares an exchange with the document that keyd serves.
func (p *process) described(r *http.Request, sent string, status int, header http.Header, body []byte) {
	p.t.Helper()
	if err := p.matches(r, sent, status, header, body); err != nil {
		p.t.Errorf("%s %s, answered %d %.300s, is not what openapi.yaml says: %v", r.Method, r.URL, status, body, err)
	}
}

func (p *process) matches(r *http.Request, sent string, status int, header http.Header, body []byte) error {
	doc, err := p.document()
	if err != nil {
		return err
	}
	item, path, values := find(doc, r.URL.Path)
	if item == nil || item.GetOperation(r.Method) == nil {
		if status < 400 {
			return errors.New("it is not in the document, and it was not refused")
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
			return fmt.Errorf("the request: %w", err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: status, Header: header, Options: options}
	if err := openapi3filter.ValidateResponse(context.Background(), answer.SetBodyBytes(body)); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}

// find returns the document's path that this one is of, with the values of its parameters.
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

// The comparison sees what is wrong.
func TestDescribedIsSeenToBeBroken(t *testing.T) {
	p := launch(t, configure(t, ""))
	r, err := http.NewRequest("POST", "http://"+p.addr["listen.operators"]+"/v1/accounts", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	const sent, good = `{"name":"Ann"}`, `{"account":{"id":"a","name":"Ann","state":"active","created_at":"2026-01-02T03:04:05Z","terminated_at":null}}`
	isJSON := http.Header{"Content-Type": {"application/json"}}
	if err := p.matches(r, sent, 201, isJSON, []byte(good)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"a field too many":     p.matches(r, sent, 201, isJSON, bytes.Replace([]byte(good), []byte(`"id"`), []byte(`"digest":"x","id"`), 1)),
		"a field is missing":   p.matches(r, sent, 201, isJSON, bytes.Replace([]byte(good), []byte(`"name":"Ann",`), nil, 1)),
		"another status":       p.matches(r, sent, 200, isJSON, []byte(good)),
		"a wrong request":      p.matches(r, `{"nam":"Ann"}`, 201, isJSON, []byte(good)),
		"a wrong envelope":     p.matches(r, sent, 409, isJSON, []byte(`{"error":"NOT_FOUND","message":"x","statusCode":409}`)),
		"503 without a header": p.matches(r, sent, 503, isJSON, []byte(`{"error":"SERVICE_UNAVAILABLE","message":"x","statusCode":503}`)),
	} {
		if err == nil {
			t.Errorf("%s is not seen", name)
		}
	}
}
