package envoylint

import (
	"os"
	"strings"
	"testing"
	"time"
)

// shippedOptions are those of authzd's defaults.
var shippedOptions = Options{Origin: "https://app.phantomrouter.ai", KeyAPITimeout: 400 * time.Millisecond}

const (
	shipped       = "../../envoy/envoy.yaml"
	shippedModule = "../../k8s/components/module/envoy.yaml"
)

// mutant is a mistake in a shipped file, with the only rule that must report it. Of from, the first
// occurrence is replaced.
type mutant struct{ about, rule, from, to string }

const extAuthzName = "          - name: envoy.filters.http.ext_authz\n"

// clears adds a filter behind the check, which clears the route cache.
func clears(about, kind, fields string) mutant {
	const router = "          - name: envoy.filters.http.router\n"
	return mutant{about, "route-cache", router, "          - name: other\n            typed_config: {\"@type\": type.googleapis.com/" + kind + fields + "}\n" + router}
}

var mutants = []mutant{
	{"fail open", "fail-open", "failure_mode_allow: false", "failure_mode_allow: true"},
	{"fail open in camelCase", "fail-open", "failure_mode_allow: false", "failureModeAllow: true"},
	{"shadow mode", "shadow-mode", "failure_mode_allow: false", "shadow_mode: true"},
	{"fraction of requests", "check-fraction", "failure_mode_allow: false", "filter_enabled: {default_value: {numerator: 99}}"},
	{"fraction by metadata", "check-fraction", "failure_mode_allow: false", "filter_enabled_metadata: {filter: a}"},
	{"403 for an unreachable sidecar", "status-on-error", "status_on_error: {code: ServiceUnavailable}", "with_x: {}"},
	{"200 for an unreachable sidecar", "status-on-error", "{code: ServiceUnavailable}", "{code: OK}"},
	{"HTTP service", "grpc-service", "grpc_service:", "http_service:"},
	{"no check", "check-missing", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n", "envoy.extensions.filters.http.rbac.v3.RBAC\n"},
	{"check by discovery", "check-missing", "            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n", "            config_discovery: {}\n            x:\n"},
	{"disabled filter", "check-disabled", extAuthzName, extAuthzName + "            disabled: true\n"},
	{"disabled route", "check-disabled", "check_settings: {context_extensions: {principal: any}}", "disabled: true"},
	{"disabled by FilterConfig", "check-disabled", "\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n                    check_settings: {context_extensions: {principal: any}}", "\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig\n                    disabled: true"},
	{"check within a matcher", "check-conditional", extAuthzName + "            typed_config:\n", "          -\n           name: envoy.filters.http.ext_authz\n           typed_config:\n" +
		"            \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher\n            extension_config:\n             typed_config:\n"},
	{"another service for a route", "per-route-service", "check_settings: {context_extensions: {principal: any}}", "check_settings: {context_extensions: {principal: any}, grpc_service: {envoy_grpc: {cluster_name: other}}}"},
	{"requirement under another name", "per-route-name", "{envoy.filters.http.ext_authz: *companion}", "{ext_authz: *companion}"},
	{"unknown principal", "requirement", "context_extensions: {principal: any}", "context_extensions: {principal: anyone}"},
	{"misspelt requirement", "requirement", "context_extensions: {principal: any}", "context_extensions: {scopes: a}"},

	{"one host only", "catch-all-host", `domains: ["*"]`, `domains: [api.example.com]`},
	{"no catch-all route", "catch-all-route", "- match: {prefix: /}\n", "- match: {prefix: /api/}\n"},
	{"catch-all route with a condition", "catch-all-route", "- match: {prefix: /}\n", "- match: {prefix: /, headers: [{name: a}]}\n"},
	{"routes by discovery", "routes-unknown", "          route_config:\n", "          rds: {route_config_name: public}\n          x:\n"},
	{"ext_authz clears the route cache", "route-cache", "clear_route_cache: false", "clear_route_cache: true"},
	clears("Lua", "envoy.extensions.filters.http.lua.v3.Lua", ""),
	clears("Wasm", "envoy.extensions.filters.http.wasm.v3.Wasm", ""),
	clears("external processing", "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", ""),
	clears("JWT clears the route cache", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", ", providers: {a: {clear_route_cache: true}}"),
	{"route lets a filter clear the route cache", "route-cache", "typed_per_filter_config:\n                  envoy.filters.http.ext_authz:\n", "typed_per_filter_config:\n                  envoy.filters.http.router: {clear_route_cache: true}\n                  envoy.filters.http.ext_authz:\n"},
	{"filters of an upgrade", "upgrade-filters", "- {upgrade_type: websocket}", "- {upgrade_type: websocket, filters: [{name: envoy.filters.http.router}]}"},
	{"paths as sent", "path-normalization", "normalize_path: true", "normalize_path: false"},
	{"repeated slashes", "path-normalization", "          merge_slashes: true\n", ""},
	{"escaped slashes", "path-normalization", "path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD"},
	{"internal redirects", "internal-redirect", "route: {cluster: upstream, timeout: 0s}", "route: {cluster: upstream, timeout: 0s, internal_redirect_policy: {}}"},

	{"unchecked mutations", "validate-mutations", "validate_mutations: true", "validate_mutations: false"},
	{"no mutation rules", "mutation-rules", "decoder_header_mutation_rules:", "x:"},
	{"all mutations", "mutation-rules", "disallow_all: true", "disallow_all: false"},
	{"mutation of the host", "mutation-rules", `|authorization|cookie"}`, `|authorization|cookie|host"}`},
	{"credential stays", "mutation-rules", `|authorization|cookie"}`, `|cookie"}`},
	{"refused mutations ignored", "mutation-rules", "disallow_is_error: true", "disallow_is_error: false"},
	{"cache before the check", "response-cache", extAuthzName, "          - {name: cache, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig}}\n" + extAuthzName},
	{"bodies", "with-request-body", "failure_mode_allow: false", "with_request_body: {max_request_bytes: 1}"},
	{"format of all local replies", "local-reply-rewrite", "          local_reply_config:\n", "          local_reply_config:\n            body_format: {text_format: a}\n"},
	{"mapper of denials", "local-reply-rewrite", "['ext_authz_error', 'ext_authz_invalid']", "['ext_authz_error', 'ext_authz_denied']"},
	{"mapper by prefix", "local-reply-rewrite", "response.code_details in ['ext_authz_error', 'ext_authz_invalid']", "response.code_details.startsWith('ext_authz_') || response.code_details == 'ext_authz_error'"},
	{"mapper of another condition", "local-reply-rewrite", "expression: response.code_details in", "expression: response.code == 503 || response.code_details in"},
	{"no JSON of an unreachable sidecar", "local-reply-missing", "['ext_authz_error', 'ext_authz_invalid']", "['ext_authz_invalid']"},
	{"second retry-after", "append-action", `{key: retry-after, value: "1"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}`, `{key: retry-after, value: "1"}}`},
	{"joined headers", "raw-headers", "encode_raw_headers: true", "encode_raw_headers: false"},

	{"no cookie", "allowed-headers", "                - {exact: cookie, ignore_case: true}\n", ""},
	{"no origin", "allowed-headers", "exact: origin,", "exact: origins,"},
	{"disallowed header", "allowed-headers", "clear_route_cache: false", "disallowed_headers: {patterns: [{prefix: sec-}]}"},
	{"large headers", "header-limits", "max_request_headers_kb: 32", "max_request_headers_kb: 8192"},
	{"identity headers of clients", "identity-headers", "early_header_mutation_extensions:", "x:"},
	{"some identity headers of clients", "identity-headers", "- remove_on_match: {key_matcher: {safe_regex: {regex: &identity \"x[-_]phantom[-_].*\"}}}", "- {remove: x-phantom-scopes, x: &identity \"x[-_]phantom[-_].*\"}"},
	{"underscores", "underscore-headers", "headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"},
	{"identity removed late", "identity-changed", "            - name: api\n", "            - name: api\n              request_headers_to_remove: [X-Phantom-Scopes]\n"},
	{"identity added late", "identity-changed", "route: {cluster: upstream, timeout: 0s}", "route: {cluster: upstream, timeout: 0s}\n                request_headers_to_add: [{header: {key: x_phantom_scopes, value: a}}]"},
	{"identity replaced by a filter", "identity-changed", "                request_mutations:\n", "                request_mutations:\n                - append: {header: {key: x-phantom-scopes, value: all}}\n"},
	{"connection of the client", "connection-header", "append_action: OVERWRITE_IF_EXISTS}\n                request_trailers", "append_action: ADD_IF_ABSENT}\n                request_trailers"},

	{"no CORS filter", "cors-order", "envoy.extensions.filters.http.cors.v3.Cors\n", "envoy.extensions.filters.http.x.v3.X\n"},
	{"another origin", "cors-origin", `{exact: "https://app.phantomrouter.ai"}`, `{exact: "https://app.example.com"}`},
	{"any origin", "cors-origin", `{exact: "https://app.phantomrouter.ai"}`, `{prefix: ""}`},
	{"origin by expression", "cors-origin", `{exact: "https://app.phantomrouter.ai"}`, `{safe_regex: {regex: "https://app.phantomrouter.ai"}}`},
	{"second origin", "cors-origin", `- {exact: "https://app.phantomrouter.ai"}`, `- {exact: "https://app.phantomrouter.ai"}` + "\n                  - {suffix: .phantomrouter.ai}"},
	{"no origin at all", "cors-origin", `allow_origin_string_match:`, `x:`},
	{"no credentials", "cors-credentials", "allow_credentials: true", "allow_credentials: false"},
	{"no CORS policy", "cors-policy", "envoy.extensions.filters.http.cors.v3.CorsPolicy", "envoy.extensions.filters.http.x.v3.X"},
	{"CORS for a fraction", "cors-disabled", "allow_credentials: true", "allow_credentials: true\n                  filter_enabled: {default_value: {numerator: 0}}"},

	{"short timeout", "check-timeout", "timeout: 0.5s\n", "timeout: 0.4s\n"},
	{"endless timeout", "check-timeout", "timeout: 0.5s\n", "timeout: 0s\n"},
	{"no retries", "check-retries", "                retry_policy:\n", "                x:\n"},
	{"short attempts", "check-retries", "max_interval: 0.5s", "max_interval: 0.1s"},
	{"default circuit breakers", "circuit-breakers", "circuit_breakers: &wide", "x: &wide"},
	{"three retries", "circuit-breakers", "retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 8192}", "max_retries: 3"},
}

var moduleMutants = []mutant{
	{"remote module", "module-remote", "do_not_close: true", "do_not_close: true\n                                module: {remote: {sha256: a}}"},
	{"module that is closed", "module-config", "do_not_close: true", "do_not_close: false"},
	{"another filter of the module", "module-config", "filter_name: phantom_authz\n                        - name", "filter_name: other\n                        - name"},
	{"requirement for ext_authz", "per-route-name", "phantom_authz:\n                                        '@type'", "envoy.filters.http.ext_authz:\n                                        '@type'"},
	{"disabled module", "check-disabled", "- name: phantom_authz\n", "- name: phantom_authz\n                          disabled: true\n"},
	{"no module", "check-missing", "name: phantom_authz\n                            filter_config:\n                                '@type': type.googleapis.com/google.protobuf.Struct\n                                value:\n                                    config_file: /etc/phantom-authz/authzd.yaml\n                            filter_name: phantom_authz", "name: a\n                            filter_name: a"},
}

// rulesOf returns the rules that report something about a file.
func rulesOf(t *testing.T, text string, options Options) []string {
	t.Helper()
	report, err := Lint("envoy.yaml", []byte(text), options)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for _, f := range report.Findings {
		rules[f.Rule] = true
		if f.Location == "" && f.Rule != noManager.Name || f.Found == "" || f.Required == "" || f.Why == "" {
			t.Errorf("incomplete: %+v", f)
		}
	}
	return sortedKeys(rules)
}

func TestRulesDetectMutants(t *testing.T) {
	proven := map[string]bool{"no-manager": true, "admin-exposed": true, "envoy-version": true} // tests of their own
	for file, list := range map[string][]mutant{shipped: mutants, shippedModule: moduleMutants} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			proven[m.rule] = true
			t.Run(m.about, func(t *testing.T) {
				mutated := strings.Replace(string(text), m.from, m.to, 1)
				if mutated == string(text) {
					t.Fatalf("%s does not contain %q", file, m.from)
				}
				if got := rulesOf(t, mutated, shippedOptions); len(got) != 1 || got[0] != m.rule {
					t.Errorf("reported by %v, want %s", got, m.rule)
				}
			})
		}
	}
	for _, r := range Rules() {
		if !proven[r.Name] {
			t.Errorf("missing mutant for the rule %s", r.Name)
		}
	}
}
