package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

const (
	source = "../../monitoring/alerts.yaml"
	target = "../components/alerts/rules.yaml"
)

func TestRulesAreThoseOfPrometheus(t *testing.T) {
	alerts, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	rule, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if string(rule) != render(string(alerts)) {
		t.Errorf("%s is not generated from %s: run go generate in k8s/", target, source)
	}
	var want, got map[string]any
	if err := yaml.Unmarshal(alerts, &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(rule, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got["spec"], any(want)) {
		t.Errorf("the spec of %s differs from %s", target, source)
	}
}

func TestRulesAreValid(t *testing.T) {
	kinds, err := schema.Monitoring()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, want string }{
		{"", "", ""},
		{"for: 1m", "for: shortly", "for"},
		{"expr:", "query:", "query"},
	} {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(strings.Replace(string(text), test.from, test.to, 1)), &object); err != nil {
			t.Fatal(err)
		}
		// kustomize sets it.
		object["metadata"].(map[string]any)["namespace"] = "phantom"
		if err := kinds.Validate(object); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q for %q: %v, want an error about %q", test.to, test.from, err, test.want)
		}
	}
}
