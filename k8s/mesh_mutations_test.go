package k8s

import (
	"bytes"
	"slices"
	"testing"

	"go.yaml.in/yaml/v4"
)

// centralPatches are mistakes in what the overlays for meshes share.
var centralPatches = []patch{
	{"base's gateway kept", "Deployment authz", "no-gateway", `replace /metadata/name "gateway"`},
	{"one authzd", "Deployment authz", "central-rollout", `replace /spec/replicas 1`},
	{"authzd stopped before its successor starts", "Deployment authz", "central-rollout", `replace /spec/strategy/rollingUpdate/maxUnavailable 1`},
	{"grace period of authzd too short", "Deployment authz", "central-rollout", `replace POD/terminationGracePeriodSeconds 15`},
	{"readiness of the listener", "Deployment authz", "central-rollout", `replace MAIN/readinessProbe {"tcpSocket":{"port":"grpc"}}`},
	{"budget that blocks every drain", "PodDisruptionBudget authz", "central-rollout", `replace /spec/maxUnavailable 0`},
	{"port without a protocol", "Service authz", "central-tls", `remove /spec/ports/0/appProtocol`},
	{"server certificate of another Secret", "Deployment authz", "secret-access", `replace POD/volumes/0/projected/sources/3/secret/name "keyd-tls"`},
	{"authzd open to the gateway's namespace", "NetworkPolicy authz", "mesh-network", `remove /spec/ingress/0/from/0/podSelector`},
	{"authzd open to all", "NetworkPolicy authz", "mesh-network", `remove /spec/ingress/0/from`},
	{"owners' port open to the gateway's namespace", "NetworkPolicy keyd", "mesh-network", `remove /spec/ingress/1/from/0/podSelector`},
	{"owners' port open to all namespaces", "NetworkPolicy keyd", "mesh-network", `replace /spec/ingress/1/from/0/namespaceSelector {}`},
	{"authzd cannot reach keyd", "NetworkPolicy authz", "mesh-network", `remove /spec/egress/1`},
}

var centralEdits = []edit{
	{"authzd drains immediately", "authzd", "central-rollout", "authzd.yaml", "drain_delay: 10s", "drain_delay: 1s"},
	{"checks without client certificates", "authzd", "central-tls", "authzd.yaml", ", client_ca_file: server-tls/ca.crt", ""},
	{"key API without TLS", "authzd", "central-tls", "authzd.yaml", "https://", "http://"},
	{"configuration differs from the repository", "authzd", "mesh-configuration", "authzd.yaml", "drain_delay: 10s", "drain_delay: 9s"},
}

// istioPatches are mistakes in both overlays for Istio.
var istioPatches = []patch{
	{"misspelt field", "AuthorizationPolicy phantom-authz", "strict", `add /spec/rule []`},
	{"unknown action", "AuthorizationPolicy phantom-authz", "strict", `replace /spec/action "EXTERNAL"`},
	{"fail open", "IstiodValues istiod", "mesh-config", `replace /meshConfig/extensionProviders/0/envoyExtAuthzGrpc/failOpen true`},
	{"no timeout", "IstiodValues istiod", "mesh-config", `remove /meshConfig/extensionProviders/0/envoyExtAuthzGrpc/timeout`},
	{"status of an error that logs users out", "IstiodValues istiod", "mesh-config", `remove /meshConfig/extensionProviders/0/envoyExtAuthzGrpc/statusOnError`},
	{"bodies sent to authzd", "IstiodValues istiod", "mesh-config", `add /meshConfig/extensionProviders/0/envoyExtAuthzGrpc/includeRequestBodyInCheck {"maxRequestBytes":1}`},
	{"another provider", "IstiodValues istiod", "mesh-config", `replace /meshConfig/extensionProviders/0/name "other"`},
	{"misspelt setting", "IstiodValues istiod", "mesh-config", `add /meshConfig/extensionProviders/0/envoyExtAuthzGrpc/failClosed true`},
	{"slashes not merged", "IstiodValues istiod", "mesh-config", `remove /meshConfig/pathNormalization`},
	{"underscores allowed", "IstiodValues istiod", "mesh-config", `replace /meshConfig/defaultConfig/connectionSettings/httpHeadersWithUnderscoresAction "HEADERS_WITH_UNDERSCORES_ALLOW"`},
	{"route without corsPolicy", "VirtualService api", "cors-policy", `remove /spec/http/1/corsPolicy`},
	{"any origin", "VirtualService api", "cors-policy", `replace /spec/http/0/corsPolicy/allowOrigins [{"regex":".*"}]`},
	{"preflights of other origins forwarded", "VirtualService api", "cors-policy", `replace /spec/http/2/corsPolicy/unmatchedPreflights "FORWARD"`},
	{"redirect", "VirtualService api", "cors-policy", `add /spec/http/0/redirect {"uri":"/"}`},
	{"Istio's retries", "VirtualService api", "cors-policy", `remove /spec/http/0/retries`},
	{"paths without a route", "VirtualService api", "cors-policy", `remove /spec/http/2`},
	{"no mutual TLS with authzd", "DestinationRule authz", "destinations", `replace /spec/trafficPolicy/tls/mode "SIMPLE"`},
	{"any name in keyd's certificate", "DestinationRule keyd-owners", "destinations", `remove /spec/trafficPolicy/portLevelSettings/0/tls/subjectAltNames`},
}

var istioEdits = []edit{
	{"requirement missing", "authzd", "endpoints", "authzd.yaml", `- {prefix: /api/v1/retarget, scope: "chat:companion"}` + "\n", ""},
	{"weaker requirement", "authzd", "endpoints", "authzd.yaml", "{prefix: /api/v1/me/keys, principal: session}", "{prefix: /api/v1/me/keys}"},
}

// preflightPatches are mistakes in the rules of the overlay istio. Each lets requests pass unchecked, or denies preflights.
var preflightPatches = []patch{
	{"OPTIONS excluded", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/rules [{"to":[{"operation":{"notMethods":["OPTIONS"]}}]}]`},
	{"origin by presence", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/rules/1/when/0/notValues ["*"]`},
	{"origin by prefix", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/rules/1/when/0/notValues ["https://app.phantomrouter.ai*"]`},
	{"method by presence", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/rules/2/when/0/notValues ["*"]`},
	{"origin not compared", "AuthorizationPolicy phantom-authz", "preflights", `remove /spec/rules/1`},
	{"method not compared", "AuthorizationPolicy phantom-authz", "preflights", `remove /spec/rules/2`},
	{"preflights checked", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/rules [{}]`},
	{"paths excluded", "AuthorizationPolicy phantom-authz", "preflights", `add /spec/rules/0/to/0/operation/notPaths ["/healthz"]`},
	{"sources excluded", "AuthorizationPolicy phantom-authz", "preflights", `add /spec/rules/0/from [{"source":{"notIpBlocks":["10.0.0.0/8"]}}]`},
	{"allowed instead of checked", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/action "ALLOW"`},
	{"dry run", "AuthorizationPolicy phantom-authz", "preflights", `add /metadata/annotations {"istio.io/dry-run":"true"}`},
	{"another gateway", "AuthorizationPolicy phantom-authz", "preflights", `replace /spec/selector/matchLabels/istio "eastwest"`},
}

var envoyFilterPatches = []patch{
	{"OPTIONS excluded", "AuthorizationPolicy phantom-authz", "all-checked", `replace /spec/rules [{"to":[{"operation":{"notMethods":["OPTIONS"]}}]}]`},
	{"cors under another name", "EnvoyFilter phantom-authz", "envoyfilter", `replace /spec/configPatches/1/patch/value/name "cors"`},
	{"cors behind ext_authz", "EnvoyFilter phantom-authz", "envoyfilter", `replace /spec/configPatches/1/patch/operation "INSERT_BEFORE"`},
	{"every workload", "EnvoyFilter phantom-authz", "envoyfilter", `remove /spec/workloadSelector`},
	{"sidecars", "EnvoyFilter phantom-authz", "envoyfilter", `replace /spec/configPatches/0/match/context "ANY"`},
	{"fail open", "EnvoyFilter phantom-authz", "envoyfilter", `add /spec/configPatches/4/patch/value/typed_config/failure_mode_allow true`},
}

var gatewayPatches = []patch{
	{"misspelt field", "SecurityPolicy checked", "strict", `add /spec/extAuth/failClosed true`},
	{"violated rule of the CRD", "SecurityPolicy checked", "strict", `remove /spec/extAuth/grpc`},
	{"fail open", "SecurityPolicy checked", "security-policies", `replace /spec/extAuth/failOpen true`},
	{"fail open on a route", "SecurityPolicy companion", "security-policies", `add /spec/extAuth/failOpen true`},
	{"no timeout", "SecurityPolicy checked", "security-policies", `remove /spec/extAuth/timeout`},
	{"status of an error without an override", "SecurityPolicy checked", "security-policies", `remove /spec/extAuth/statusOnError`},
	{"all headers", "SecurityPolicy checked", "security-policies", `remove /spec/extAuth/headersToExtAuth`},
	{"another route after the check", "SecurityPolicy checked", "security-policies", `replace /spec/extAuth/recomputeRoute true`},
	{"bodies sent to authzd", "SecurityPolicy checked", "security-policies", `add /spec/extAuth/bodyToExtAuth {"maxRequestBytes":1}`},
	{"any origin", "SecurityPolicy checked", "security-policies", `replace /spec/cors/allowOrigins ["*"]`},
	{"no cors", "SecurityPolicy checked", "security-policies", `remove /spec/cors`},
	{"requirement of unknown paths", "SecurityPolicy checked", "security-policies", `add /spec/extAuth/contextExtensions [{"name":"principal","type":"Value","value":"any"}]`},
	{"policy of the Gateway replaced", "SecurityPolicy any", "security-policies", `remove /spec/mergeType`},
	{"policy of one route only", "SecurityPolicy checked", "security-policies", `replace /spec/targetRefs/0 {"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"api"}`},
	{"weaker requirement", "SecurityPolicy session", "requirements", `replace /spec/extAuth/contextExtensions/0/value "any"`},
	{"misspelt extension", "SecurityPolicy companion", "requirements", `replace /spec/extAuth/contextExtensions/0/name "scopes"`},
	{"policy of a missing rule", "SecurityPolicy companion", "requirements", `replace /spec/targetRefs/0/sectionName "companions"`},
	{"path of another rule", "HTTPRoute api", "requirements", `replace /spec/rules/1/matches/0/path/value "/api/v1/me/keys"`},
	{"route for one method", "HTTPRoute api", "routes", `add /spec/rules/0/matches/0/method "POST"`},
	{"Envoy's timeout", "HTTPRoute api", "routes", `remove /spec/rules/0/timeouts`},
	{"paths without a route", "HTTPRoute api", "routes", `remove /spec/rules/5`},
	{"identity changed after the check", "HTTPRoute api", "routes", `add /spec/rules/4/filters [{"type":"RequestHeaderModifier","requestHeaderModifier":{"remove":["x-phantom-scopes"]}}]`},
	{"escaped slashes redirected", "ClientTrafficPolicy api", "client-traffic", `remove /spec/path`},
	{"underscores allowed", "ClientTrafficPolicy api", "client-traffic", `replace /spec/headers/withUnderscoresAction "Allow"`},
	{"clients' identity headers kept", "ClientTrafficPolicy api", "client-traffic", `remove /spec/headers/earlyRequestHeaders`},
	{"another status overridden", "BackendTrafficPolicy unavailable", "response-override", `replace /spec/responseOverride/0/match/statusCodes/0/value 401`},
	{"upstream's answers overridden", "BackendTrafficPolicy unavailable", "response-override", `replace /spec/responseOverride/0/source "All"`},
	{"system's CA for authzd", "BackendTLSPolicy authz", "backend-tls", `replace /spec/validation {"hostname":"authz","wellKnownCACertificates":"System"}`},
	{"another name in keyd's certificate", "BackendTLSPolicy keyd", "backend-tls", `replace /spec/validation/hostname "authz"`},
	{"no certificate of Envoy", "EnvoyProxy api", "backend-tls", `remove /spec/backendTLS`},
	{"EnvoyProxy without effect", "Gateway api", "backend-tls", `remove /spec/infrastructure`},
}

func TestMeshRulesDetectMutations(t *testing.T) {
	patches := map[string][]patch{
		"istio":             slices.Concat(centralPatches, istioPatches, preflightPatches),
		"istio-envoyfilter": slices.Concat(istioPatches, envoyFilterPatches),
		"envoy-gateway":     slices.Concat(centralPatches, gatewayPatches),
	}
	edits := map[string][]edit{
		"istio": slices.Concat(centralEdits, istioEdits), "istio-envoyfilter": istioEdits, "envoy-gateway": centralEdits,
	}
	proven, all := map[string]bool{}, map[string]bool{}
	for _, o := range meshOverlays {
		t.Run(o.name, func(t *testing.T) {
			var text bytes.Buffer
			for _, doc := range o.documents(t) {
				out, err := yaml.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				text.WriteString("---\n" + string(out))
			}
			v := o.variant()
			for rule := range v.detects(t, text.Bytes(), patches[o.name], edits[o.name]) {
				proven[rule] = true
			}
			for _, rule := range v.rules {
				all[rule.name] = true
			}
		})
	}
	for _, rule := range withAuthzd.rules {
		proven[rule.name] = true // by TestRulesDetectMutations
	}
	for rule := range all {
		if !proven[rule] {
			t.Errorf("missing mutation for the rule %s", rule)
		}
	}
}
