package envoylint

import "slices"

// Rule is a condition that a configuration must meet.
type Rule struct {
	Name     string
	Severity Severity
	Required string
	Why      string
}

// Rules about the check: it runs for each request, and an error denies.
var (
	noManager    = Rule{"no-manager", Error, "an HTTP connection manager", "the file has nothing to check: it may be another file, or the listeners come from elsewhere"}
	checkMissing = Rule{"check-missing", Error, "the filter ext_authz or phantom_authz in each HTTP connection manager that routes", "requests of this listener are not checked"}
	// An ExtensionWithMatcher can skip its filter, a CompositeFilter can choose another one.
	checkConditional = Rule{"check-conditional", Error, "the filter without a matcher around it", "a matcher can skip the check"}
	// ExtAuthzPerRoute.disabled, FilterConfig.disabled and HttpFilter.disabled.
	checkDisabled = Rule{"check-disabled", Error, "the check enabled for each route", "requests of this route are not checked"}
	checkFraction = Rule{"check-fraction", Error, "filter_enabled and filter_enabled_metadata absent", "a runtime value or another filter can switch the check off"}
	// CVE-2023-27488 and CVE-2024-23324 are bypasses of this kind.
	failOpen   = Rule{"fail-open", Error, "failure_mode_allow absent or false", "while authzd cannot answer, every request passes"}
	shadowMode = Rule{"shadow-mode", Error, "shadow_mode absent or false", "every request passes, and errors pass too"}
	// The default is 403, which logs users out. 511 is what nothing else gives, for a mapper without CEL.
	statusOnError = Rule{"status-on-error", Error, "status_on_error: {code: ServiceUnavailable}, or NetworkAuthenticationRequired with a mapper that makes it 503", "the default 403 of an unreachable authzd looks like a denial and logs users out"}
	grpcService   = Rule{"grpc-service", Error, "grpc_service with envoy_grpc or google_grpc", "authzd answers gRPC only"}
	// CVE-2026-47205.
	perRouteService = Rule{"per-route-service", Error, "check_settings with context_extensions alone", "a route can send its check to another service, or send the body"}
	perRouteName    = Rule{"per-route-name", Error, "per-route settings under the name of the filter, with its type", "Envoy ignores them, so the route has no requirement and is denied"}
	badRequirement  = Rule{"requirement", Error, "context_extensions with scope (names separated by spaces) or principal (any, key or session)", "authzd denies the route: 403 no_policy"}
	// A module is loaded at start. One that Envoy fetches lets requests pass until it has it.
	moduleRemote = Rule{"module-remote", Error, "dynamic_module_config.module without remote", "requests pass until Envoy has fetched the module"}
	moduleConfig = Rule{"module-config", Error, "dynamic_module_config: {name: phantom_authz, do_not_close: true} and filter_name: phantom_authz", "Envoy cannot load the module, or unloads it, which a Go library does not survive"}
)

// Rules about routes: no request leaves the check's decision.
var (
	// ext_authz does not run when no route matches.
	catchAllHost  = Rule{"catch-all-host", Error, `a virtual host with the domain "*"`, "requests of other hosts get Envoy's 404 without a check"}
	catchAllRoute = Rule{"catch-all-route", Error, "a last route {prefix: /} without further conditions in each virtual host", "requests that match no route get Envoy's 404 without a check"}
	routesUnknown = Rule{"routes-unknown", Error, "the route configuration in the same file", "its routes cannot be checked: lint the answer of /config_dump"}
	// Envoy selects the route again, with the settings of the check already applied.
	routeCache       = Rule{"route-cache", Error, "no filter that clears the route cache: clear_route_cache false in ext_authz, and in or after it", "the request can get another route than the one that was checked"}
	upgradeFilters   = Rule{"upgrade-filters", Error, "upgrade_configs without filters", "such an upgrade has its own filters, without the check"}
	pathNormalized   = Rule{"path-normalization", Error, "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: REJECT_REQUEST", "the upstream can read another path than the one whose requirement was checked"}
	internalRedirect = Rule{"internal-redirect", Warning, "no internal_redirect_policy", "Envoy checks the redirected request without the credential, which the first check removed"}
	adminExposed     = Rule{"admin-exposed", Error, "exact paths such as /ready and /stats/prometheus only", "Envoy's admin interface is open to clients of this listener"}
)

// Rules about the answer: it reaches the caller and the upstream as authzd gave it, once.
var (
	// Unset, a newline in a header goes out raw.
	validateMutations = Rule{"validate-mutations", Error, "validate_mutations: true", "an invalid header of an answer is sent as it is"}
	mutationRules     = Rule{"mutation-rules", Error, `decoder_header_mutation_rules with disallow_all, disallow_is_error and an allow_expression for x-phantom-… and x_phantom_…, authorization and cookie alone`, "authzd could change :path, host and other headers, or cannot remove the credential and identity headers"}
	responseCache     = Rule{"response-cache", Error, "no cache filter", "a cache answers without the check, or gives the answer of one caller to another"}
	withRequestBody   = Rule{"with-request-body", Error, "with_request_body absent", "Envoy buffers each body: no streaming, and 413 for long ones"}
	localReplyRewrite = Rule{"local-reply-rewrite", Error, "no body_format, and only mappers that exclude denials: by response.code_details, by a status that no denial has, or by a response flag other than UAEX", "the body or status of denials is replaced"}
	localReplyMissing = Rule{"local-reply-missing", Warning, "a mapper for response.code_details ext_authz_error with status 503 and the JSON of the row unavailable", "callers get an empty body while authzd cannot be reached"}
	// append_action counts here; it is ignored in answers of a check.
	appendAction = Rule{"append-action", Warning, "append_action: OVERWRITE_IF_EXISTS_OR_ADD", "the default appends, so the header can occur twice"}
	rawHeaders   = Rule{"raw-headers", Warning, "encode_raw_headers: true", "repeated headers arrive joined, and bytes that are not UTF-8 are replaced"}
)

// Rules about headers: authzd receives what it needs, and no client can send an identity.
var (
	allowedHeaders   = Rule{"allowed-headers", Error, "allowed_headers absent, or with authorization, cookie, origin, sec-fetch-site, content-type and x-phantom-…; disallowed_headers with none of them", "authzd decides by these headers"}
	headerLimits     = Rule{"header-limits", Error, "max_request_headers_kb of at most 96", "authzd reads messages up to 128 KiB: a larger one is answered with an error, so 503"}
	identityHeaders  = Rule{"identity-headers", Error, "early_header_mutation that removes every name with the prefix x-phantom-", "a client's own identity headers reach the other filters, and the upstream where the check does not run"}
	underscores      = Rule{"underscore-headers", Error, "headers_with_underscores_action: REJECT_REQUEST or DROP_HEADER", "many upstreams read x_phantom_… as x-phantom-…"}
	identityChanged  = Rule{"identity-changed", Error, "no change of x-phantom-… headers behind the check", "request_headers_to_remove, request_headers_to_add and later filters apply after the check: they remove or replace the identity"}
	connectionHeader = Rule{"connection-header", Warning, "a header_mutation filter behind the check that overwrites connection (append_action: OVERWRITE_IF_EXISTS)", "a client can name identity headers in Connection, and the next hop then removes them"}
)

// Rules about CORS.
var (
	// Only then do denials carry the CORS headers, and preflights are not denied.
	corsOrder       = Rule{"cors-order", Error, "the filter cors before the check", "preflights are denied, and the web app cannot read denials"}
	corsOrigin      = Rule{"cors-origin", Error, "allow_origin_string_match with one exact origin, web_app.origin of authzd:", "another origin can read answers, or the web app cannot"}
	corsCredentials = Rule{"cors-credentials", Error, "allow_credentials: true", "the web app's session cookie is not sent"}
	corsPolicy      = Rule{"cors-policy", Warning, "a CorsPolicy in each virtual host", "the web app cannot use this host"}
	corsDisabled    = Rule{"cors-disabled", Error, "filter_enabled absent or 100%, and no disabled policy", "preflights are denied, and the web app cannot read denials"}
)

// Rules about availability.
var (
	checkTimeout = Rule{"check-timeout", Warning, "grpc_service.timeout at least 20 ms above key_api.timeout of authzd, and at most 1s", "shorter, Envoy answers before authzd does (the default is 200 ms); longer, callers wait for an authzd that hangs"}
	checkRetries = Rule{"check-retries", Warning, "retry_policy with retry_on connect-failure, refused-stream and reset, num_retries, and max_interval of at least the timeout", "a restart of authzd fails the requests of that moment; max_interval is also the timeout of each attempt"}
	// The defaults are 1,024 requests and 3 retries.
	circuitBreakers = Rule{"circuit-breakers", Warning, "max_requests above 1024, and a retry_budget or max_retries above 3, in authzd's cluster", "more concurrent checks are errors: 503"}
	envoyVersion    = Rule{"envoy-version", Warning, "Envoy 1.36.10, 1.37.6, 1.38.4, 1.39.1, or 1.40 and later", "older ones have known vulnerabilities"}
)

// Rules returns all rules, in the order of the documentation.
func Rules() []Rule {
	return []Rule{
		noManager, checkMissing, checkConditional, checkDisabled, checkFraction, failOpen, shadowMode, statusOnError, grpcService,
		perRouteService, perRouteName, badRequirement, moduleRemote, moduleConfig,
		catchAllHost, catchAllRoute, routesUnknown, routeCache, upgradeFilters, pathNormalized, internalRedirect, adminExposed,
		validateMutations, mutationRules, responseCache, withRequestBody, localReplyRewrite, localReplyMissing, appendAction, rawHeaders,
		allowedHeaders, headerLimits, identityHeaders, underscores, identityChanged, connectionHeader,
		corsOrder, corsOrigin, corsCredentials, corsPolicy, corsDisabled,
		checkTimeout, checkRetries, circuitBreakers, envoyVersion,
	}
}

// AreRules reports whether all names are names of rules.
func AreRules(names []string) bool {
	all := Rules()
	return !slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(all, func(r Rule) bool { return r.Name == name })
	})
}
