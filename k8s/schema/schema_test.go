package schema_test

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

func TestValidate(t *testing.T) {
	const (
		policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: b}
spec: {action: CUSTOM, provider: {name: c}, rules: [{to: [{operation: {methods: [OPTIONS]}}]}]}`
		security = `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: a}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: api}]
  extAuth: {failOpen: false, statusOnError: 511, grpc: {backendRefs: [{name: authz, port: 9191}]}}`
		gateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: a}
spec: {gatewayClassName: eg, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]}`
		class = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: example.com/gateway}`
	)
	for _, r := range []struct{ about, object, from, to, want string }{
		{"valid Istio", policy, "", "", ""},
		{"valid Envoy Gateway", security, "", "", ""},
		{"valid Gateway API", gateway, "", "", ""},
		{"valid, without a namespace", class, "", "", ""},
		{"misspelt field", policy, "methods:", "method:", "unknown fields: spec.rules[0].to[0].operation.method"},
		{"misspelt field of metadata", policy, "namespace:", "nameSpace:", "unknown fields: metadata.nameSpace"},
		{"unknown field beside spec", policy, "spec:", "extra: 1\nspec:", "unknown fields: extra"},
		{"wrong enum", policy, "CUSTOM", "CUSTOMS", `Unsupported value: "CUSTOMS"`},
		{"wrong type", policy, "[OPTIONS]", "OPTIONS", "must be of type array"},
		{"number out of bounds", security, "511", "200", "spec.extAuth.statusOnError"},
		{"violated rule", security, "kind: Gateway, name", "kind: Service, name", "targetRefs"},
		{"violated rule between fields", security, "grpc: {backendRefs: [{name: authz, port: 9191}]}", "", "one of grpc or http must be specified"},
		{"repeated key of a list", gateway, "name: b", "name: a", "Duplicate value"},
		{"name missing", class, "name: eg", "labels: {a: b}", "metadata.name: Required value"},
		{"namespace where none is", class, "name: eg", "name: eg, namespace: a", "metadata.namespace: Forbidden"},
		{"version that is not served", policy, "io/v1", "io/v1alpha9", "unknown kind"},
		{"unknown kind", policy, "AuthorizationPolicy", "AuthorizationRule", "unknown kind"},
	} {
		t.Run(r.about, func(t *testing.T) {
			meshes, err := schema.Meshes()
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(r.object, r.from, r.to, 1)
			if r.from != "" && text == r.object {
				t.Fatalf("missing %q in the object", r.from)
			}
			err = meshes.Validate(parse(t, text))
			switch {
			case r.want == "" && err != nil:
				t.Error(err)
			case r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)):
				t.Errorf("error %v, want one with %q", err, r.want)
			}
		})
	}
}

func TestValidateDoesNotChangeTheObject(t *testing.T) {
	meshes, err := schema.Meshes()
	if err != nil {
		t.Fatal(err)
	}
	object := parse(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec: {parentRefs: [{name: api}], rules: [{backendRefs: [{name: upstream, port: 8080}]}]}`)
	before, _ := yaml.Marshal(object)
	if err := meshes.Validate(object); err != nil {
		t.Fatal(err)
	}
	if after, _ := yaml.Marshal(object); string(after) != string(before) {
		t.Errorf("changed:\n%s", after)
	}
}

func TestNewNeedsCRDs(t *testing.T) {
	if _, err := schema.New([]byte("a: 1\n---\nkind: ConfigMap\n")); err == nil {
		t.Error("no error")
	}
	if _, err := schema.New([]byte("a: [")); err == nil {
		t.Error("no error")
	}
}
