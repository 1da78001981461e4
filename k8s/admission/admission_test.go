// Package admission evaluates the ValidatingAdmissionPolicies with the compiler of Kubernetes' API server. The tests of
// ../cluster apply them to a real one.
package admission

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"go.yaml.in/yaml/v4"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

const filter = `
- name: envoy.filters.http.ext_authz
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, FIELD}`

func envoyFilter(value string) string {
	return `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: x}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    patch: {operation: MERGE, value: ` + value + `}`
}

func securityPolicy(extAuth string) string {
	return `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: x}
spec: {` + extAuth + `}`
}

// configMap has the text in a block, as kustomize and Helm write it.
func configMap(text string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  config.yaml: |\n    " +
		strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

func extAuthz(field string) string { return configMap(strings.Replace(filter, "FIELD", field, 1)) }

func TestPoliciesRefuse(t *testing.T) {
	const failOpen, shadowMode, shadow = "failure_mode_allow must be false", "shadow_mode must be false", "shadow must be false"
	const provider = "failOpen must be false"
	for _, test := range []struct{ name, object, refused string }{
		{"fail closed", extAuthz("failure_mode_allow: false"), ""},
		{"no field", extAuthz("validate_mutations: true"), ""},
		{"JSON, fail closed", configMap(`{"failure_mode_allow": false, "shadow_mode": false}`), ""},
		{"fail open", extAuthz("failure_mode_allow: true"), failOpen},
		{"one of two", extAuthz("failure_mode_allow: false}\n- {failure_mode_allow: true"), failOpen},
		{"other spelling", extAuthz("failureModeAllow: true"), failOpen},
		{"JSON", configMap(`{"failure_mode_allow": true}`), failOpen},
		{"JSON without a space", configMap(`{"failure_mode_allow":true}`), failOpen},
		{"quoted", extAuthz(`'failure_mode_allow': "true"`), failOpen},
		{"True", extAuthz("failure_mode_allow: True"), failOpen},
		{"value on the next line", configMap("failure_mode_allow:\n  true"), failOpen},
		{"explicit key", configMap("? failure_mode_allow\n: true"), failOpen},
		{"anchor", configMap("a: &x true\nfailure_mode_allow: *x"), failOpen},
		{"longer word", configMap("failure_mode_allow: falsey"), failOpen},
		{"comment", configMap("# failure_mode_allow: true would let requests pass"), failOpen},
		{"header of fail open", extAuthz("failure_mode_allow_header_add: true"), ""},
		{"shadow mode of Envoy", extAuthz("shadow_mode: true"), shadowMode},
		{"shadow mode of Envoy, other spelling", extAuthz("shadowMode: true"), shadowMode},
		{"shadow decision in a log format", configMap(`shadow_decision: "%DYNAMIC_METADATA(a:shadow_decision)%"` + "\nkey_api: {}"), ""},
		{"shadow mode of authzd", configMap("key_api: {url: x}\nshadow: true"), shadow},
		{"shadow mode of the module", configMap("filter_config: {key_api: {url: x}, shadow: true}"), shadow},
		{"shadow mode of the module, JSON", configMap(`{"key_api":{},"shadow":true}`), shadow},
		{"authzd without shadow mode", configMap("key_api: {url: x}\nshadow: false"), ""},
		{"another program's field", configMap("box: {shadow: true}"), ""},
		{"provider of Istio", configMap("extensionProviders:\n- envoyExtAuthzGrpc: {failOpen: true}"), provider},
		{"provider of Istio, closed", configMap("extensionProviders:\n- envoyExtAuthzGrpc: {failOpen: false}"), ""},
		{"no data", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}", ""},

		{"EnvoyFilter", envoyFilter(`{typed_config: {failure_mode_allow: true}}`), failOpen},
		{"EnvoyFilter, other spelling", envoyFilter(`{typedConfig: {failureModeAllow: true}}`), failOpen},
		{"EnvoyFilter, text", envoyFilter(`{typed_config: {failure_mode_allow: "true"}}`), failOpen},
		{"EnvoyFilter, connection manager", envoyFilter(`{typed_config: {http_filters: [{name: a}, {typed_config: {failure_mode_allow: true}}]}}`), failOpen},
		{"EnvoyFilter, shadow mode", envoyFilter(`{typed_config: {shadow_mode: true}}`), shadowMode},
		{"EnvoyFilter, closed", envoyFilter(`{typed_config: {failure_mode_allow: false, http_filters: [{name: a}]}}`), ""},
		{"EnvoyFilter, nothing typed", envoyFilter(`{name: x}`), ""},
		{"EnvoyFilter without patches", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: x}\nspec: {}", ""},

		{"SecurityPolicy", securityPolicy("extAuth: {failOpen: true}"), "spec.extAuth.failOpen must be false"},
		{"SecurityPolicy, closed", securityPolicy("extAuth: {failOpen: false}"), ""},
		{"SecurityPolicy, default", securityPolicy("extAuth: {grpc: {}}"), ""},
		{"SecurityPolicy without a check", securityPolicy("cors: {}"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			messages := judge(t, test.object)
			if test.refused == "" && len(messages) > 0 {
				t.Errorf("refused: %q", messages)
			}
			if test.refused != "" && (len(messages) != 1 || !strings.HasPrefix(messages[0], test.refused)) {
				t.Errorf("refused: %q; want %q", messages, test.refused)
			}
		})
	}
}

// A check that costs more than CEL's budget refuses the object.
func TestPoliciesAcceptLargeConfigMaps(t *testing.T) {
	const line = "a: {failure_mode_allow: false, b: some text of a configuration}\n"
	for _, test := range []struct {
		name, line string
		bytes      int
	}{
		{"the largest that a ConfigMap can hold", strings.ReplaceAll(line, "failure_mode_allow", "failure"), 1<<20 - 1000},
		{"with mentions", line, 250_000},
	} {
		if messages := judge(t, configMap(strings.Repeat(test.line, test.bytes/len(test.line)))); len(messages) > 0 {
			t.Errorf("%s: refused: %q", test.name, messages)
		}
	}
}

// judge returns the messages of the policies that refuse the object.
func judge(t *testing.T, text string) (messages []string) {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatal(err)
	}
	kind := object.GroupVersionKind()
	resource := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: map[string]string{
		"ConfigMap": "configmaps", "SecurityPolicy": "securitypolicies", "EnvoyFilter": "envoyfilters",
	}[kind.Kind]}
	attributes := &admission.VersionedAttributes{
		Attributes:      admission.NewAttributesRecord(object, nil, kind, "ns", "x", resource, "", admission.Create, nil, false, nil),
		VersionedKind:   kind,
		VersionedObject: admission.NewLazyObject(object),
	}
	request := plugincel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(resource), metav1.GroupVersionKind(kind))
	matched := false
	for _, policy := range policies(t) {
		if rule := policy.Spec.MatchConstraints.ResourceRules[0]; rule.APIGroups[0] != kind.Group || rule.Resources[0] != resource.Resource {
			continue
		}
		matched = true
		results, _, err := compile(t, policy).ForInput(t.Context(), attributes, request, plugincel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget)
		if err != nil { // failurePolicy: Fail
			return []string{err.Error()}
		}
		for i, r := range results {
			if r.Error != nil {
				messages = append(messages, r.Error.Error())
			} else if r.EvalResult != types.True {
				messages = append(messages, policy.Spec.Validations[i].Message)
			}
		}
	}
	if !matched {
		t.Fatalf("no policy for %s", resource)
	}
	return messages
}

// expression is a variable or a validation of a policy, for the compiler.
type expression struct{ name, text string }

func (e expression) GetName() string       { return e.name }
func (e expression) GetExpression() string { return e.text }
func (e expression) ReturnTypes() []*cel.Type {
	if e.name != "" {
		return []*cel.Type{cel.AnyType, cel.DynType}
	}
	return []*cel.Type{cel.BoolType}
}

// compile does what the API server does with a policy that it stores.
func compile(t *testing.T, policy *admissionv1.ValidatingAdmissionPolicy) plugincel.ConditionEvaluator {
	t.Helper()
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	options := plugincel.OptionalVariableDeclarations{}
	for _, v := range policy.Spec.Variables {
		if r := compiler.CompileAndStoreVariable(expression{v.Name, v.Expression}, options, environment.NewExpressions); r.Error != nil {
			t.Fatalf("%s, variable %s: %v", policy.Name, v.Name, r.Error)
		}
	}
	var conditions []plugincel.ExpressionAccessor
	for _, v := range policy.Spec.Validations {
		conditions = append(conditions, expression{text: v.Expression})
	}
	evaluator := compiler.CompileCondition(conditions, options, environment.NewExpressions)
	for _, err := range evaluator.CompilationErrors() {
		t.Fatalf("%s: %v", policy.Name, err)
	}
	return evaluator
}

// policies returns the policies of this folder, decoded strictly. Each has a binding that denies in labelled namespaces.
func policies(t *testing.T) (all []*admissionv1.ValidatingAdmissionPolicy) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	bound := map[string]bool{}
	for _, name := range []string{"configmaps.yaml", "envoy-gateway.yaml", "istio.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var document map[string]any
			if err := d.Decode(&document); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			encoded, err := yaml.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			object, _, err := decoder.Decode(encoded, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch o := object.(type) {
			case *admissionv1.ValidatingAdmissionPolicy:
				all = append(all, o)
			case *admissionv1.ValidatingAdmissionPolicyBinding:
				labels := o.Spec.MatchResources.NamespaceSelector.MatchLabels
				bound[o.Spec.PolicyName] = labels["phantom.io/fail-closed"] == "true" && o.Spec.ValidationActions[0] == admissionv1.Deny
			}
		}
	}
	for _, policy := range all {
		if !bound[policy.Name] || *policy.Spec.FailurePolicy != admissionv1.Fail {
			t.Fatalf("%s does not deny in labelled namespaces", policy.Name)
		}
	}
	return all
}
