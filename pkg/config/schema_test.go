package config

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// validators returns functions that validate YAML against the schema of each program.
func validators(t *testing.T) map[string]func(text string) error {
	t.Helper()
	found := map[string]func(string) error{}
	for program, schema := range map[string]func() ([]byte, error){"authzd": Schema[Authzd], "keyd": Schema[Keyd]} {
		text, err := schema()
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource("schema.json", document); err != nil {
			t.Fatal(err)
		}
		compiled, err := compiler.Compile("schema.json")
		if err != nil {
			t.Fatal(err)
		}
		found[program] = func(text string) error { return compiled.Validate(valueOf(t, text)) }
	}
	return found
}

// valueOf returns YAML in the types that the validator expects.
func valueOf(t *testing.T, text string) (value any) {
	t.Helper()
	if err := yaml.Load([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	inJSON, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	value, err = jsonschema.UnmarshalJSON(strings.NewReader(string(inJSON)))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

var (
	fenced         = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	programComment = regexp.MustCompile(`\A(?:#.*\n)*# (authzd|keyd)\.yaml\n`)
)

// TestSchemaAcceptsShippedFiles: the schemas accept the examples of the documentation, the
// configurations of compose and Kubernetes, and every field.
func TestSchemaAcceptsShippedFiles(t *testing.T) {
	type example struct{ program, name, text string }
	examples := []example{
		{"authzd", "every field", fullAuthzd},
		{"authzd", "defaults", authzdDefaults},
		{"keyd", "every field", fullKeyd},
		{"keyd", "defaults", keydDefaults},
		{"keyd", "empty", "{}"},
	}
	for program, names := range map[string][]string{
		"authzd": {"envoy/config/authzd.yaml", "k8s/base/config/authzd.yaml"},
		"keyd":   {"envoy/config/keyd.yaml", "k8s/base/config/keyd.yaml", "k8s/components/operators-network/keyd.yaml"},
	} {
		for _, name := range names {
			examples = append(examples, example{program, name, shipped(t, name)})
		}
	}
	documented := map[string]int{}
	for _, name := range []string{"docs/envoy.md", "docs/configuration.md"} {
		for _, block := range fenced.FindAllStringSubmatch(shipped(t, name), -1) {
			if m := programComment.FindStringSubmatch(block[1]); m != nil {
				examples = append(examples, example{m[1], name, block[1]})
				documented[m[1]]++
			}
		}
	}
	if documented["authzd"] < 2 || documented["keyd"] < 1 {
		t.Errorf("found only %v examples in the documentation", documented)
	}
	validate := validators(t)
	for _, e := range examples {
		if err := validate[e.program](e.text); err != nil {
			t.Errorf("%s: %v in\n%s", e.name, err, e.text)
		}
	}
}

func shipped(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSchemaRefusesMistakes(t *testing.T) {
	validate := validators(t)
	for _, c := range []struct{ program, text string }{
		{"authzd", "{}"},                                  // without key_api.url
		{"authzd", "key_api: {url: ''}"},                  // an empty string
		{"authzd", "key_api: {url: a, timeout: 5}"},       // a duration without a unit
		{"authzd", "key_api: {url: a, timeout: soon}"},    // not a duration
		{"authzd", "key_api: {url: a, changes: maybe}"},   // not an accepted string
		{"authzd", "key_api: {url: a}\nshadow: 'true'"},   // not a boolean
		{"authzd", "key_api: {url: a}\nshadw: true"},      // an unknown field
		{"authzd", "key_api: {url: a, tls: {ca_fil: b}}"}, // an unknown field of an optional section
		{"authzd", "key_api: {url: a}\ncache: {unknown: 0}"},
		{"authzd", "key_api: {url: a}\nlisten: {check: tcp://a:1}"},
		{"authzd", "key_api: {url: a}\nlisten: {check: ['http://a:1']}"},
		{"authzd", "key_api: {url: a}\nendpoints: [{path: /a, principal: nobody}]"},
		{"authzd", "key_api: {url: a}\nlisten: {tls: {cert_file: a}}"},
		{"keyd", "operators: [{name: a}]"},
		{"keyd", "scopes: {a: {granted_by: nobody}}"},
		{"keyd", "scopes: {a: {}}"},
		{"keyd", "keys_per_account: 1.5"},
	} {
		if validate[c.program](c.text) == nil {
			t.Errorf("accepted %s", c.text)
		}
	}
}
