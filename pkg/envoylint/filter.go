package envoylint

import (
	"slices"
	"strings"
	"time"
)

// extAuthz checks the settings of the filter ext_authz.
func (l *linter) extAuthz(f filter) {
	c := f.config
	l.require(failOpen, c.at("failure_mode_allow"), !c.at("failure_mode_allow").isTrue())
	l.require(shadowMode, c.at("shadow_mode"), !c.at("shadow_mode").isTrue())
	for _, name := range []string{"filter_enabled", "filter_enabled_metadata"} {
		l.require(checkFraction, c.at(name), !c.at(name).exists())
	}
	status := c.in("status_on_error", "code")
	number := status.number()
	l.require(statusOnError, status, slices.Contains([]string{"ServiceUnavailable", "NetworkAuthenticationRequired"}, status.text()) || number == 503 || number == 511)
	l.require(validateMutations, c.at("validate_mutations"), c.at("validate_mutations").isTrue())
	l.require(withRequestBody, c.at("with_request_body"), !c.at("with_request_body").exists())
	l.require(rawHeaders, c.at("encode_raw_headers"), c.at("encode_raw_headers").isTrue())
	l.mutationRules(c.at("decoder_header_mutation_rules"))
	l.headersOf(c)
	service := c.at("grpc_service")
	if !service.at("envoy_grpc").exists() && !service.at("google_grpc").exists() {
		l.find(grpcService, service, "%s", service.shown())
		return
	}
	l.service(service)
}

// mutationRules evaluates which headers authzd may change.
func (l *linter) mutationRules(rules node) {
	problem := ""
	allowed := func(name string) bool { return matchesRegex(rules.at("allow_expression"), name) }
	switch {
	case !rules.exists():
		problem = "absent"
	case !rules.at("disallow_all").isTrue():
		problem = "disallow_all is " + rules.at("disallow_all").shown()
	case !rules.at("disallow_is_error").isTrue():
		problem = "disallow_is_error is " + rules.at("disallow_is_error").shown()
	}
	for _, name := range []string{"allow_all_routing", "allow_envoy"} {
		if rules.at(name).isTrue() {
			problem = name + " is true"
		}
	}
	for _, name := range append([]string{"authorization", "cookie"}, identity...) {
		if rules.exists() && problem == "" && (!allowed(name) || !allowed(withUnderscores(name))) {
			problem = name + " is not allowed"
		}
	}
	for _, name := range []string{":path", ":method", ":authority", "host", "origin", "x-request-id", "x-forwarded-for", "x-envoy-original-path", "content-type", "x-other"} {
		if problem == "" && allowed(name) {
			problem = name + " is allowed"
		}
	}
	if problem != "" {
		l.find(mutationRules, rules, "%s", problem)
	}
}

// headersOf evaluates which headers authzd receives. Without allowed_headers it receives all.
func (l *linter) headersOf(c node) {
	needed := append([]string{"authorization", "cookie", "origin", "sec-fetch-site", "content-type"}, identity...)
	matches := func(list node, name string) bool {
		return slices.ContainsFunc(list.at("patterns").items(), func(p node) bool { return matchesString(p, name) })
	}
	allowed, disallowed := c.at("allowed_headers"), c.at("disallowed_headers")
	for _, name := range needed {
		if allowed.exists() && !matches(allowed, name) {
			l.find(allowedHeaders, allowed, "%s is not sent", name)
			return
		}
		if matches(disallowed, name) {
			l.find(allowedHeaders, disallowed, "%s is not sent", name)
			return
		}
	}
}

const (
	// answerMargin is the time that authzd keeps before Envoy's timeout (pkg/extauthz).
	answerMargin = 20 * time.Millisecond
	// maxCheckTimeout is the longest timeout of a check that is not reported. authzd answers 503 after
	// it, unless key_api.timeout is longer.
	maxCheckTimeout = time.Second
)

// service checks the connection to authzd.
func (l *linter) service(service node) {
	timeout, ok := service.at("timeout").duration()
	longest := max(maxCheckTimeout, 2*l.KeyAPITimeout)
	l.require(checkTimeout, service.at("timeout"), ok && timeout >= l.KeyAPITimeout+answerMargin && timeout <= longest && timeout > 0)
	retries := service.at("retry_policy")
	number := retries.at("num_retries").number()
	interval, limited := retries.in("retry_back_off", "max_interval").duration()
	on := strings.Split(strings.ReplaceAll(retries.at("retry_on").text(), " ", ""), ",")
	missing := slices.DeleteFunc([]string{"connect-failure", "refused-stream", "reset"}, func(cause string) bool { return slices.Contains(on, cause) })
	if number < 1 || len(missing) > 0 || limited && interval < timeout {
		l.find(checkRetries, retries, "%s", retries.shown())
	}
	if name := service.in("envoy_grpc", "cluster_name").text(); !l.checked[name] {
		l.checked[name] = true
		l.cluster(l.clusters[name])
	}
}

// module checks the settings of the Envoy module.
func (l *linter) module(f filter) {
	from := f.config.at("dynamic_module_config")
	l.require(moduleRemote, from.in("module", "remote"), !from.in("module", "remote").exists())
	if from.at("name").text() != module || !from.at("do_not_close").isTrue() || f.config.at("filter_name").text() != module {
		l.find(moduleConfig, f.config, "name %s, do_not_close %s, filter_name %s", from.at("name").shown(), from.at("do_not_close").shown(), f.config.at("filter_name").shown())
	}
}

// Filters that clear the route cache, or can.
var (
	// clearing do so unless their clear_route_cache is false.
	clearing = []string{"envoy.extensions.filters.http.lua.v3.Lua"}
	// opaque run code that Envoy does not know, or change the path and then select the route again.
	opaque = []string{
		"envoy.extensions.filters.http.wasm.v3.Wasm",
		"envoy.extensions.filters.http.golang.v3alpha.Config",
		"envoy.extensions.filters.http.composite.v3.Composite",
		"envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
		"envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
		moduleType,
	}
	caches = []string{"envoy.extensions.filters.http.cache.v3.CacheConfig", "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config"}
)

const extProc = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"

// place checks a filter by its place before or behind the check.
func (l *linter) place(m *manager, i int, f filter) {
	if f.isCheck() {
		l.require(checkDisabled, f.at("disabled"), !f.at("disabled").isTrue())
		if f.conditional {
			l.find(checkConditional, f.node, "%s", matcherType)
		}
	}
	if slices.Contains(caches, f.kind) {
		l.find(responseCache, f.node, "%s", f.name)
	}
	if i < m.check {
		return
	}
	if f.kind == corsType && !slices.ContainsFunc(m.filters[:m.check], func(f filter) bool { return f.kind == corsType }) {
		l.find(corsOrder, f.node, "behind %s", m.filters[m.check].name)
	}
	clear := clearsRouteCache(f.config)
	retains := f.config.at("route_cache_action").text() == "RETAIN"
	switch {
	case clear.exists():
		l.find(routeCache, clear, "%s in %s", clear.shown(), f.name)
	case f.isCheck():
	case slices.Contains(clearing, f.kind) && f.config.at("clear_route_cache").value != false,
		slices.Contains(opaque, f.kind), f.kind == extProc && !retains:
		l.find(routeCache, f.node, "%s, which can clear it", f.name)
	}
	if f.kind == mutationType {
		l.identityMutations(f.config.in("mutations", "request_mutations"))
	}
}

// clearsRouteCache returns a field that clears the route cache, at any depth of a filter's settings.
func clearsRouteCache(n node) (clear node) {
	for _, name := range []string{"clear_route_cache", "clear_route_cache_headers"} {
		if c := n.at(name); c.exists() && c.value != false {
			return c
		}
	}
	for _, child := range n.children() {
		if clear = clearsRouteCache(child); clear.exists() {
			return clear
		}
	}
	return node{}
}
