package envoylint

import (
	"slices"
	"strings"
	"testing"
)

// dump is a config_dump whose listener, routes and cluster came by discovery, in the forms in which Envoy
// reports them. Node is that of the bootstrap without its braces.
func dump(node string) string {
	const manager = `{"@type": "type.googleapis.com/` + managerType + `",
		"rds": {"route_config_name": "public"},
		"normalizePath": true, "mergeSlashes": true, "pathWithEscapedSlashesAction": "REJECT_REQUEST",
		"commonHttpProtocolOptions": {"headersWithUnderscoresAction": "REJECT_REQUEST"},
		"earlyHeaderMutationExtensions": [{"name": "m", "typedConfig": {"@type": "t/x", "mutations": [{"removeOnMatch": {"keyMatcher": {"prefix": "x-phantom-"}}}]}}],
		"localReplyConfig": {"mappers": [{"filter": {"statusCodeFilter": {"comparison": {"value": {"defaultValue": 511}}}}, "statusCode": 503}]},
		"httpFilters": [
			{"name": "cors", "typedConfig": {"@type": "t/` + corsType + `"}},
			{"name": "authz", "configDiscovery": {"typeUrls": ["a"]}},
			{"name": "mutation", "typedConfig": {"@type": "t/xds.type.v3.TypedStruct", "type_url": "t/` + mutationType + `",
				"value": {"mutations": {"requestMutations": [{"append": {"header": {"key": "connection"}, "appendAction": "OVERWRITE_IF_EXISTS"}}]}}}},
			{"name": "router", "typedConfig": {"@type": "t/router"}}]}`
	const check = `{"@type": "t/` + checkType + `", "failureModeAllow": FAIL, "validateMutations": true, "encodeRawHeaders": true,
		"statusOnError": {"code": "NetworkAuthenticationRequired"},
		"decoderHeaderMutationRules": {"disallowAll": true, "disallowIsError": true, "allowExpression": {"regex": "x[-_]phantom[-_].*|authorization|cookie"}},
		"grpcService": {"envoyGrpc": {"clusterName": "authz"}, "timeout": "0.500s",
			"retryPolicy": {"numRetries": 1, "retryOn": "connect-failure, refused-stream, reset"}}}`
	const listener = `{"@type": "t/envoy.config.listener.v3.Listener", "name": "public", "filterChains": [{"filters": [{"typedConfig": MANAGER}]}]}`
	const broken = `{"@type": "t/envoy.config.listener.v3.Listener", "name": "old", "filterChains": [{"filters": [{"typedConfig": {"@type": "t/` + managerType + `"}}]}]}`
	text := `{"configs": [
		{"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": {"user_agent_build_version": NODE},
			"static_resources": {"listeners": [BROKEN]}}},
		{"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [
			{"name": "public", "active_state": {"listener": LISTENER}, "draining_state": {"listener": BROKEN}},
			{"name": "rejected", "error_state": {"failed_configuration": BROKEN}}]},
		{"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [{"version_info": "1", "route_config":
			{"@type": "type.googleapis.com/` + routesType + `", "name": "public", "virtualHosts": [{"name": "h", "domains": ["*"],
				"typedPerFilterConfig": {"cors": {"@type": "t/` + corsPolicyType + `", "allowCredentials": true, "allowOriginStringMatch": [{"exact": "https://app.phantomrouter.ai"}]}},
				"routes": [{"match": {"pathSeparatedPrefix": "/a"}, "route": {"cluster": "c"}, "typedPerFilterConfig": {"authz": {"@type": "t/` + checkRouteType + `",
					"checkSettings": {"contextExtensions": {"principal": "key"}}}}}, {"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]}}]},
		{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [{"cluster":
			{"@type": "t/` + clusterType + `", "name": "authz", "circuitBreakers": {"thresholds": [{"priority": "HIGH"}, {"maxRequests": 8192, "maxRetries": 100}]}}}]},
		{"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [{"ecds_filter":
			{"@type": "t/` + extensionType + `", "name": "authz", "typedConfig": CHECK}}]}]}`
	return strings.NewReplacer("NODE", node, "BROKEN", broken, "LISTENER", strings.Replace(listener, "MANAGER", manager, 1),
		"CHECK", strings.Replace(check, "FAIL", "false", 1)).Replace(text)
}

func version(major, minor, patch string) string {
	return `{"version": {"major_number": ` + major + `, "minor_number": ` + minor + `, "patch": ` + patch + `}}`
}

func TestDiscoveredConfiguration(t *testing.T) {
	text := dump(version("1", "40", "0"))
	report, err := Lint("dump", []byte(text), shippedOptions)
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("%v %+v", err, report.Findings)
	}
	if len(report.Routes) != 2 || report.Routes[0].Requirement != "key" || report.Routes[0].Match != "/a/*" || report.Routes[0].Listener != "public" {
		t.Errorf("%+v", report.Routes)
	}
	for _, m := range []mutant{
		{"filter by discovery", "fail-open", `"failureModeAllow": false`, `"failureModeAllow": true`},
		{"routes by discovery", "catch-all-route", `{"prefix": "/"}`, `{"prefix": "/b"}`},
		{"missing routes", "routes-unknown", `"name": "public", "virtualHosts"`, `"name": "other", "virtualHosts"`},
		{"cluster by discovery", "circuit-breakers", `"maxRequests": 8192`, `"maxRequests": 1024`},
		{"struct with a type", "connection-header", `"appendAction": "OVERWRITE_IF_EXISTS"`, `"appendAction": "APPEND_IF_EXISTS_OR_ADD"`},
		{"511 is not replaced", "local-reply-missing", `"defaultValue": 511`, `"defaultValue": 500`},
		{"denials are replaced", "local-reply-rewrite", `{"value": {"defaultValue": 511}}`, `{"op": "GE", "value": {"defaultValue": 403}}`},
	} {
		mutated := strings.Replace(text, m.from, m.to, 1)
		if got := rulesOf(t, mutated, shippedOptions); mutated == text || !slices.Equal(got, []string{m.rule}) {
			t.Errorf("%s: reported by %v, want %s", m.about, got, m.rule)
		}
	}
}

func TestVersionOfEnvoy(t *testing.T) {
	for v, old := range map[[3]string]bool{
		{"1", "35", "99"}: true, {"1", "36", "9"}: true, {"1", "36", "10"}: false, {"1", "37", "6"}: false, {"1", "38", "3"}: true,
		{"1", "38", "4"}: false, {"1", "39", "0"}: true, {"1", "39", "1"}: false, {"1", "40", "0"}: false, {"1", "41", "0"}: false, {"2", "0", "0"}: false,
	} {
		if got := rulesOf(t, dump(version(v[0], v[1], v[2])), shippedOptions); slices.Contains(got, "envoy-version") != old {
			t.Errorf("%v: reported by %v, want it reported: %v", v, got, old)
		}
	}
}
