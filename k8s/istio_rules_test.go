package k8s

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	meshconfig "istio.io/api/mesh/v1alpha1"
)

const (
	istiodValues = "IstiodValues" // the kind that stands for the Helm values in mesh-config.yaml
	webApp       = "https://app.phantomrouter.ai"
)

// istioRules apply to both overlays for Istio.
var istioRules = []rule{
	{"mesh-config", meshSettings},
	{"cors-policy", corsPolicies},
	{"destinations", destinations},
	{"endpoints", endpointTable},
}

// meshSettings checks istiod's settings.
func meshSettings(m *manifests, report report) {
	text, err := json.Marshal(m.only(istiodValues, report)["meshConfig"])
	if err != nil {
		panic(err)
	}
	var config meshconfig.MeshConfig
	if err := protojson.Unmarshal(text, &config); err != nil {
		report("mesh-config.yaml", "%v", err)
		return
	}
	policy := authorization(m, report)
	found := false
	for _, p := range config.GetExtensionProviders() {
		provider := p.GetEnvoyExtAuthzGrpc()
		if provider == nil || p.GetName() != policy.Provider.Name {
			continue
		}
		found = true
		if timeout := provider.GetTimeout().AsDuration(); timeout <= 0 || timeout > time.Second {
			report("mesh-config.yaml", "timeout is %v: must be at most 1s; without it, it is 600s", timeout)
		}
		if provider.GetFailOpen() {
			report("mesh-config.yaml", "failOpen must be false")
		}
		if provider.GetStatusOnError() != "503" {
			report("mesh-config.yaml", "statusOnError must be 503: 403 logs users out")
		}
		if provider.GetIncludeRequestBodyInCheck() != nil || provider.GetClearRouteCache() {
			report("mesh-config.yaml", "includeRequestBodyInCheck and clearRouteCache must be absent")
		}
	}
	if !found {
		report("mesh-config.yaml", "missing provider %q of the AuthorizationPolicy", policy.Provider.Name)
	}
	if config.GetPathNormalization().GetNormalization() != meshconfig.MeshConfig_ProxyPathNormalization_MERGE_SLASHES {
		report("mesh-config.yaml", "pathNormalization must be MERGE_SLASHES")
	}
	settings := config.GetDefaultConfig().GetConnectionSettings()
	if settings.GetHttpPathWithEscapedSlashesAction() != meshconfig.ProxyConfig_ConnectionSettings_REJECT_REQUEST ||
		settings.GetHttpHeadersWithUnderscoresAction() != meshconfig.ProxyConfig_ConnectionSettings_HEADERS_WITH_UNDERSCORES_REJECT_REQUEST {
		report("mesh-config.yaml", "escaped slashes and names with underscores must be rejected")
	}
}

// authorizationPolicy is the part of an AuthorizationPolicy that the rules check.
type authorizationPolicy struct {
	Action   string
	Provider struct{ Name string }
	Selector struct{ MatchLabels map[string]string }
	Rules    []struct {
		From []any
		To   []struct{ Operation map[string][]string }
		When []struct {
			Key               string
			Values, NotValues []string
		}
	}
}

// authorization returns the policy that has the gateway's requests checked.
func authorization(m *manifests, report report) (policy authorizationPolicy) {
	object := m.only("AuthorizationPolicy", report)
	object.spec(&policy)
	if policy.Action != "CUSTOM" || policy.Selector.MatchLabels["istio"] != "ingressgateway" {
		report("AuthorizationPolicy", "action must be CUSTOM, for the ingress gateway")
	}
	var meta struct{ Annotations map[string]string }
	read(object["metadata"], &meta)
	if meta.Annotations["istio.io/dry-run"] != "" {
		report("AuthorizationPolicy", "istio.io/dry-run must be absent")
	}
	return policy
}

// optionsRequest is a request by what the rules of an AuthorizationPolicy may match. A nil header is absent.
type optionsRequest struct {
	method                string
	origin, requestMethod *string
}

// isPreflight reports whether the cors filter answers the request as one of the web app.
func isPreflight(r optionsRequest) bool {
	return r.method == "OPTIONS" && r.origin != nil && *r.origin == webApp &&
		r.requestMethod != nil && slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, *r.requestMethod)
}

// checkedRequests evaluates the rules as Istio does. Only requests for which skipped is true may be unchecked.
func checkedRequests(m *manifests, skipped func(optionsRequest) bool, report report) {
	policy := authorization(m, report)
	text := func(s string) *string { return &s }
	for _, method := range []string{"GET", "POST", "OPTIONS", "options", "PURGE"} {
		for _, origin := range []*string{nil, text(""), text(webApp), text("https://evil.example"), text(webApp + ".evil.example"), text("null")} {
			for _, requestMethod := range []*string{nil, text(""), text("GET"), text("DELETE"), text("get"), text("PURGE")} {
				r := optionsRequest{method, origin, requestMethod}
				checked, err := policy.matches(r)
				if err != nil {
					report("AuthorizationPolicy", "%v", err)
					return
				}
				if checked == skipped(r) {
					report("AuthorizationPolicy", "%s with origin %s and access-control-request-method %s is checked: %t, must be %t",
						method, show(origin), show(requestMethod), checked, !checked)
				}
			}
		}
	}
}

func show(s *string) string {
	if s == nil {
		return "absent"
	}
	return fmt.Sprintf("%q", *s)
}

// matches reports whether a rule matches the request. It refuses rules that do not depend on method and headers alone: such a rule
// excludes requests by something that the test does not try.
func (p authorizationPolicy) matches(r optionsRequest) (bool, error) {
	headers := map[string]*string{
		"request.headers[origin]": r.origin, "request.headers[access-control-request-method]": r.requestMethod,
	}
	for _, rule := range p.Rules {
		if len(rule.From) > 0 {
			return false, fmt.Errorf("rules must not depend on the source")
		}
		matched := len(rule.To) == 0
		for _, to := range rule.To {
			for field := range to.Operation {
				if field != "methods" && field != "notMethods" {
					return false, fmt.Errorf("rules must not depend on %s", field)
				}
			}
			methods, not := to.Operation["methods"], to.Operation["notMethods"]
			matched = matched || (len(methods) == 0 || matchesAny(methods, &r.method)) && !matchesAny(not, &r.method)
		}
		for _, when := range rule.When {
			value, known := headers[when.Key]
			if !known {
				return false, fmt.Errorf("rules must not depend on %s", when.Key)
			}
			matched = matched && (len(when.Values) == 0 || matchesAny(when.Values, value)) && !matchesAny(when.NotValues, value)
		}
		if matched {
			return true, nil
		}
	}
	return false, nil
}

// matchesAny matches as Istio does: "*" is presence, "a*" a prefix, "*a" a suffix. Nothing matches an absent value.
func matchesAny(patterns []string, value *string) bool {
	return value != nil && slices.ContainsFunc(patterns, func(p string) bool {
		switch {
		case p == "*":
			return true
		case strings.HasPrefix(p, "*"):
			return strings.HasSuffix(*value, p[1:])
		case strings.HasSuffix(p, "*"):
			return strings.HasPrefix(*value, p[:len(p)-1])
		}
		return *value == p
	})
}

// corsPolicies checks that each route answers preflights, and that every path has a route.
func corsPolicies(m *manifests, report report) {
	var service struct {
		HTTP []struct {
			Name                     string
			Match                    []any
			Redirect, DirectResponse any
			Retries                  struct{ Attempts *int }
			CORS                     struct {
				AllowOrigins        []map[string]string
				AllowCredentials    bool
				UnmatchedPreflights string
			} `json:"corsPolicy"`
		}
	}
	m.only("VirtualService", report).spec(&service)
	for _, route := range service.HTTP {
		where := "VirtualService route " + route.Name
		cors := route.CORS
		if !reflect.DeepEqual(cors.AllowOrigins, []map[string]string{{"exact": webApp}}) || !cors.AllowCredentials || cors.UnmatchedPreflights != "IGNORE" {
			report(where, "must have the corsPolicy of the web app: its preflights are not checked")
		}
		if route.Redirect != nil || route.DirectResponse != nil {
			report(where, "must have a destination: corsPolicy has no effect on others")
		}
		if route.Retries.Attempts == nil || *route.Retries.Attempts != 0 {
			report(where, "retries.attempts must be 0: Istio's default repeats requests")
		}
	}
	if n := len(service.HTTP); n == 0 || len(service.HTTP[n-1].Match) > 0 {
		report("VirtualService", "the last route must match every path")
	}
}

// destinations checks the mutual TLS of the gateway with authzd and keyd.
func destinations(m *manifests, report report) {
	type policy struct {
		Port struct{ Number int }
		TLS  struct {
			Mode, CredentialName, SNI string
			Names                     []string `json:"subjectAltNames"`
		}
	}
	found := map[string]bool{}
	for _, d := range m.ofKind("DestinationRule") {
		var rule struct {
			Host   string
			Policy struct {
				policy
				Ports []policy `json:"portLevelSettings"`
			} `json:"trafficPolicy"`
		}
		d.spec(&rule)
		for _, p := range append(rule.Policy.Ports, rule.Policy.policy) {
			for service, port := range map[string]int{"authz": 0, "keyd": 8083} {
				if rule.Host == service+".phantom.svc.cluster.local" && p.Port.Number == port && p.TLS.Mode == "MUTUAL" &&
					p.TLS.CredentialName == "envoy-tls" && slices.Equal(p.TLS.Names, []string{service}) {
					found[service] = true
				}
			}
		}
	}
	for _, service := range []string{"authz", "keyd"} {
		if !found[service] {
			report("DestinationRule", "the gateway must present envoy-tls to %s and verify the name in its certificate", service)
		}
	}
}

// requirement is what a route of envoy.yaml requires.
type requirement struct{ path, prefix, scope, principal string }

// envoyRequirements returns the requirements of the routes of envoy.yaml.
func envoyRequirements(report report) (list []requirement) {
	text, err := os.ReadFile("../envoy/envoy.yaml")
	if err != nil {
		panic(err)
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		panic(err)
	}
	for _, r := range itemsOf(doc, "routes") {
		var route struct {
			Match struct {
				Path   string
				Prefix string `json:"path_separated_prefix"`
			}
			Settings map[string]struct {
				Check struct {
					Extensions map[string]string `json:"context_extensions"`
				} `json:"check_settings"`
			} `json:"typed_per_filter_config"`
		}
		read(r, &route)
		if e := route.Settings["envoy.filters.http.ext_authz"].Check.Extensions; e != nil {
			r := requirement{route.Match.Path, route.Match.Prefix, e["scope"], e["principal"]}
			if !slices.Contains(list, r) { // a path may have several routes
				list = append(list, r)
			}
		}
	}
	if len(list) == 0 {
		report("envoy.yaml", "no requirements")
	}
	return list
}

// itemsOf returns the items of all lists of that name in a document.
func itemsOf(doc any, name string) (found []any) {
	switch doc := doc.(type) {
	case map[string]any:
		for key, value := range doc {
			if list, ok := value.([]any); ok && key == name {
				found = append(found, list...)
			}
			found = append(found, itemsOf(value, name)...)
		}
	case []any:
		for _, value := range doc {
			found = append(found, itemsOf(value, name)...)
		}
	}
	return found
}

// endpointTable checks that authzd's table has the requirements of envoy.yaml.
func endpointTable(m *manifests, report report) {
	var config struct {
		Endpoints []struct{ Path, Prefix, Scope, Principal string }
	}
	readYAML(m, "authzd.yaml", &config, report)
	var got []requirement
	for _, e := range config.Endpoints {
		got = append(got, requirement{e.Path, e.Prefix, e.Scope, e.Principal})
	}
	sameRequirements("authzd.yaml", got, report)
}

// sameRequirements compares requirements with those of envoy.yaml. The principal any is the default.
func sameRequirements(where string, got []requirement, report report) {
	text := func(list []requirement) (lines []string) {
		for _, r := range list {
			if r.principal == "any" {
				r.principal = ""
			}
			lines = append(lines, fmt.Sprintf("%+v", r))
		}
		slices.Sort(lines)
		return lines
	}
	if want := text(envoyRequirements(report)); !slices.Equal(text(got), want) {
		report(where, "the requirements are %v: must be those of envoy.yaml, %v", text(got), want)
	}
}

// envoyFilter checks the patches on which the contract rests, as far as their effect is not tested behind Envoy: a patch that Istio
// does not apply leaves the API's configuration, in which everything is checked.
func envoyFilter(m *manifests, report report) {
	var filter struct {
		Selector struct{ Labels map[string]string } `json:"workloadSelector"`
		Patches  []struct {
			ApplyTo string
			Match   struct{ Context string }
			Patch   struct {
				Operation string
				Value     map[string]any
			}
		} `json:"configPatches"`
	}
	m.only("EnvoyFilter", report).spec(&filter)
	if filter.Selector.Labels["istio"] != "ingressgateway" {
		report("EnvoyFilter", "must select the ingress gateway")
	}
	cors := false
	for _, p := range filter.Patches {
		if p.Match.Context != "GATEWAY" {
			report("EnvoyFilter", "context must be GATEWAY")
		}
		cors = cors || p.Patch.Operation == "INSERT_FIRST" && p.Patch.Value["name"] == "envoy.filters.http.cors"
		text, _ := json.Marshal(p.Patch.Value)
		if strings.Contains(string(text), `"failure_mode_allow":true`) || strings.Contains(string(text), `"disabled":true`) {
			report("EnvoyFilter", "must not let requests pass unchecked")
		}
	}
	if !cors {
		report("EnvoyFilter", "must insert envoy.filters.http.cors first: routes' policies are found by this name")
	}
}
