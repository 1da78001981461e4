package keyserver

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func recorder(isJSON bool) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	if isJSON {
		w.Header().Set("Content-Type", "application/json")
	}
	return w
}

// Every side serves the document without authentication, for reading only.
func TestDescriptionIsServed(t *testing.T) {
	f := setUp(t)
	for side := range f.handler {
		for _, method := range []string{"GET", "HEAD"} {
			r := f.do(side, request(method, descriptionPath, "")).want(200)
			if r.header.Get("Content-Type") != "application/yaml" || r.raw != description {
				t.Errorf("%s %s: %q and %d bytes", side, method, r.header.Get("Content-Type"), len(r.raw))
			}
		}
		f.do(side, request("GET", descriptionPath+"?format=json", "")).rejected(400, "format")
		if r := f.do(side, request("PUT", descriptionPath, "")); r.status != 401 && r.status != 403 {
			t.Errorf("%s: PUT without authentication: %d", side, r.status)
		}
	}
	f.operator("DELETE", descriptionPath, "").rejected(405, "GET, HEAD")
}

func load(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// The document has exactly the routes of all sides.
func TestDescriptionHasEveryRoute(t *testing.T) {
	f := setUp(t)
	var rows, described []string
	for side, routes := range routesOf(f) {
		for _, row := range routes {
			rows = append(rows, fmt.Sprintf("%s %s [%s]", strings.ToLower(row.Method), row.Path, side))
		}
	}
	rows = append(rows, "get "+descriptionPath+" [sidecars operators owners]")
	for path, item := range load(t, []byte(description))["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method != "parameters" {
				described = append(described, fmt.Sprintf("%s %s %v", method, path, op.(map[string]any)["tags"]))
			}
		}
	}
	slices.Sort(rows)
	slices.Sort(described)
	if !slices.Equal(rows, described) {
		t.Errorf("served\n%s\ndescribed\n%s", strings.Join(rows, "\n"), strings.Join(described, "\n"))
	}
}

// The API for sidecars also has a document of its own, so that others can build a key API. The whole document
// contains it and may only add names of operations and statuses.
func TestDescriptionContainsTheSidecarAPI(t *testing.T) {
	raw, err := os.ReadFile("testdata/keyapi.openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	part, whole := load(t, raw), load(t, []byte(description))
	delete(part, "info") // differs
	contains(t, "", part, whole)
}

// mayGrow lists where the whole document has more than the part.
var mayGrow = []string{"", ".paths", ".components", ".components.securitySchemes", ".components.responses", ".components.schemas"}

func contains(t *testing.T, at string, part, whole any) {
	t.Helper()
	p, ok1 := part.(map[string]any)
	w, ok2 := whole.(map[string]any)
	if !ok1 || !ok2 {
		if fmt.Sprint(part) != fmt.Sprint(whole) {
			t.Errorf("%s: %v, the part has %v", at, whole, part)
		}
		return
	}
	for name, value := range p {
		contains(t, at+"."+name, value, w[name])
	}
	for name := range maps.Keys(w) {
		_, known := p[name]
		operation := strings.HasSuffix(at, "."+strings.ToLower(http.MethodPost)) && (name == "tags" || name == "operationId")
		status := strings.HasSuffix(at, ".post.responses") && slices.Contains([]string{"403", "413", "415", "429"}, name)
		if !known && !slices.Contains(mayGrow, at) && !operation && !status {
			t.Errorf("%s has %s, which the part has not", at, name)
		}
	}
}
