package k8s

import (
	"reflect"
	"slices"
	"time"
)

// gatewayRules apply to the overlay for Envoy Gateway.
var gatewayRules = []rule{
	{"security-policies", securityPolicies},
	{"requirements", gatewayRequirements},
	{"routes", gatewayRoutes},
	{"client-traffic", clientTraffic},
	{"response-override", responseOverride},
	{"backend-tls", backendTLS},
}

type targetRef struct{ Kind, Name, SectionName string }

// securityPolicy is the part of a SecurityPolicy that the rules check.
type securityPolicy struct {
	Targets   []targetRef `json:"targetRefs"`
	MergeType string
	CORS      *struct {
		AllowOrigins     []string
		AllowCredentials bool
	}
	ExtAuth *struct {
		FailOpen         *bool
		Timeout          string
		StatusOnError    int
		RecomputeRoute   bool
		BodyToExtAuth    any
		HeadersToExtAuth []string
		Extensions       []struct{ Name, Type, Value string } `json:"contextExtensions"`
	}
}

// securityPolicies checks that everything that goes through the Gateway is checked, and that policies of routes do not replace that.
func securityPolicies(m *manifests, report report) {
	ofGateway := 0
	for _, object := range m.ofKind("SecurityPolicy") {
		var p securityPolicy
		object.spec(&p)
		where := "SecurityPolicy " + object.name()
		auth := p.ExtAuth
		if auth == nil {
			report(where, "missing extAuth")
			continue
		}
		if auth.FailOpen != nil && *auth.FailOpen || auth.RecomputeRoute || auth.BodyToExtAuth != nil {
			report(where, "failOpen and recomputeRoute must be false, and bodyToExtAuth absent")
		}
		if !reflect.DeepEqual(p.Targets, []targetRef{{Kind: "Gateway", Name: "api"}}) {
			if p.MergeType != "StrategicMerge" || p.CORS != nil {
				report(where, "mergeType must be StrategicMerge, without cors: otherwise it replaces the Gateway's policy")
			}
			continue
		}
		ofGateway++
		if timeout, err := time.ParseDuration(auth.Timeout); err != nil || timeout > time.Second {
			report(where, "timeout is %q: must be at most 1s", auth.Timeout)
		}
		if auth.StatusOnError != 511 {
			report(where, "statusOnError must be 511, of which the override makes a 503")
		}
		if len(auth.Extensions) > 0 {
			report(where, "must have no requirement: a path without one is denied")
		}
		if want := []string{"authorization", "cookie", "origin", "sec-fetch-site", "content-type"}; !slices.Equal(auth.HeadersToExtAuth, want) {
			report(where, "headersToExtAuth must be %v", want)
		}
		if p.CORS == nil || !slices.Equal(p.CORS.AllowOrigins, []string{webApp}) || !p.CORS.AllowCredentials {
			report(where, "cors must allow the web app, with credentials, and no other origin")
		}
	}
	if ofGateway != 1 {
		report("SecurityPolicy", "%d are of the Gateway: must be one", ofGateway)
	}
}

// gatewayRoute is the part of an HTTPRoute that the rules check.
type gatewayRoute struct {
	ParentRefs []struct{ Name string }
	Rules      []struct {
		Name    string
		Matches []struct {
			Method string
			Path   struct{ Type, Value string }
		}
		Timeouts struct{ Request string }
		Filters  []any
	}
}

// gatewayRequirements checks that the routes with their policies require what envoy.yaml requires.
func gatewayRequirements(m *manifests, report report) {
	required := map[string]requirement{} // by the name of a rule
	for _, object := range m.ofKind("SecurityPolicy") {
		var p securityPolicy
		object.spec(&p)
		for _, target := range p.Targets {
			for _, e := range p.ExtAuth.Extensions {
				r := required[target.SectionName]
				switch e.Name {
				case "scope":
					r.scope = e.Value
				case "principal":
					r.principal = e.Value
				default:
					report("SecurityPolicy "+object.name(), "context extension %q is invalid: must be scope or principal", e.Name)
				}
				required[target.SectionName] = r
			}
		}
	}
	var route gatewayRoute
	m.only("HTTPRoute", report).spec(&route)
	var got []requirement
	for _, rule := range route.Rules {
		r, ok := required[rule.Name]
		delete(required, rule.Name)
		for _, match := range rule.Matches {
			r.path, r.prefix = "", ""
			if match.Path.Type == "Exact" {
				r.path = match.Path.Value
			} else {
				r.prefix = match.Path.Value
			}
			if ok && !slices.Contains(got, r) {
				got = append(got, r)
			}
		}
	}
	for name := range required {
		report("SecurityPolicy", "targets the rule %q, which no route has", name)
	}
	sameRequirements("HTTPRoute", got, report)
}

// gatewayRoutes checks that preflights match, that answers may stream, and that every path has a route.
func gatewayRoutes(m *manifests, report report) {
	var route gatewayRoute
	m.only("HTTPRoute", report).spec(&route)
	all := false
	for _, rule := range route.Rules {
		if rule.Timeouts.Request == "" {
			report("HTTPRoute rule "+rule.Name, "timeouts.request must be set: Envoy's default cuts streams after 15s")
		}
		if len(rule.Filters) > 0 {
			report("HTTPRoute rule "+rule.Name, "must have no filters: they change the request after the check, and cors has no effect on redirects")
		}
		for _, match := range rule.Matches {
			if match.Method != "" {
				report("HTTPRoute rule "+rule.Name, "must have no method: a preflight must match it")
			}
			all = all || match.Path.Type == "PathPrefix" && match.Path.Value == "/"
		}
	}
	if !all {
		report("HTTPRoute", "a rule must match every path")
	}
}

// clientTraffic checks that clients cannot send identity headers or ambiguous paths.
func clientTraffic(m *manifests, report report) {
	var p struct {
		Targets []targetRef `json:"targetRefs"`
		Path    struct{ EscapedSlashesAction string }
		Headers struct {
			WithUnderscoresAction string
			Early                 struct {
				RemoveOnMatch []struct{ Type, Value string }
			} `json:"earlyRequestHeaders"`
		}
	}
	m.only("ClientTrafficPolicy", report).spec(&p)
	if !slices.Contains(p.Targets, targetRef{Kind: "Gateway", Name: "api"}) {
		report("ClientTrafficPolicy", "must target the Gateway")
	}
	if p.Path.EscapedSlashesAction != "RejectRequest" || p.Headers.WithUnderscoresAction != "RejectRequest" {
		report("ClientTrafficPolicy", "escaped slashes and names with underscores must be rejected")
	}
	if !slices.Contains(p.Headers.Early.RemoveOnMatch, struct{ Type, Value string }{"Prefix", "x-phantom-"}) {
		report("ClientTrafficPolicy", "earlyRequestHeaders must remove x-phantom-")
	}
}

// responseOverride checks that an unreachable authzd is answered with the contract's 503.
func responseOverride(m *manifests, report report) {
	var p struct {
		Targets  []targetRef `json:"targetRefs"`
		Override []struct {
			Source string
			Match  struct{ StatusCodes []struct{ Value int } }
			To     struct{ StatusCode int } `json:"response"`
		} `json:"responseOverride"`
	}
	m.only("BackendTrafficPolicy", report).spec(&p)
	if len(p.Override) != 1 || p.Override[0].Source != "Local" || p.Override[0].To.StatusCode != 503 ||
		len(p.Override[0].Match.StatusCodes) != 1 || p.Override[0].Match.StatusCodes[0].Value != 511 {
		report("BackendTrafficPolicy", "must replace Envoy's own 511 by 503, and nothing else")
	}
}

// backendTLS checks the mutual TLS of the Envoys with authzd and keyd.
func backendTLS(m *manifests, report report) {
	verified := map[string]string{}
	for _, object := range m.ofKind("BackendTLSPolicy") {
		var p struct {
			Targets    []targetRef `json:"targetRefs"`
			Validation struct {
				Hostname     string
				Certificates []struct{ Name string } `json:"caCertificateRefs"`
			}
		}
		object.spec(&p)
		for _, target := range p.Targets {
			if len(p.Validation.Certificates) > 0 {
				verified[target.Name] = p.Validation.Hostname
			}
		}
	}
	for _, service := range []string{"authz", "keyd"} {
		if verified[service] != service {
			report("BackendTLSPolicy", "must verify the certificate of %s, by our CA and its name", service)
		}
	}
	var proxy struct {
		BackendTLS struct{ ClientCertificateRef struct{ Name string } }
	}
	m.only("EnvoyProxy", report).spec(&proxy)
	if proxy.BackendTLS.ClientCertificateRef.Name != "envoy-tls" {
		report("EnvoyProxy", "backendTLS.clientCertificateRef must be envoy-tls")
	}
	var gateway struct {
		Infrastructure struct{ ParametersRef struct{ Kind, Name string } }
	}
	m.only("Gateway", report).spec(&gateway)
	if ref := gateway.Infrastructure.ParametersRef; ref.Kind != "EnvoyProxy" || ref.Name != "api" {
		report("Gateway", "infrastructure.parametersRef must be the EnvoyProxy: without it the Envoys present no certificate")
	}
}
