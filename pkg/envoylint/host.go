package envoylint

import (
	"slices"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// hosts checks the virtual hosts and their routes, and lists the routes.
func (l *linter) hosts(m *manager, routes node, known bool) {
	if !known {
		return
	}
	l.level(m, routes)
	hosts := routes.at("virtual_hosts")
	isCatchAll := func(host node) bool {
		return slices.ContainsFunc(host.at("domains").items(), func(domain node) bool { return domain.text() == "*" })
	}
	if !slices.ContainsFunc(hosts.items(), isCatchAll) {
		l.find(catchAllHost, hosts, "none")
	}
	l.cors(m, routes)
	for _, host := range hosts.items() {
		l.level(m, host)
		list := host.at("routes")
		if host.at("matcher").exists() || !slices.ContainsFunc(list.items(), matchesAll) {
			l.find(catchAllRoute, list, "none in virtual host %s", host.at("name").shown())
		}
		for _, route := range list.items() {
			l.route(m, routes, host, route)
		}
	}
}

// matchesAll reports whether a route matches every path and has no other condition.
func matchesAll(route node) bool {
	match := route.at("match")
	for _, f := range match.fields() {
		switch f.name {
		case "prefix", "safe_regex", "safeRegex", "case_sensitive", "caseSensitive":
		default:
			return false
		}
	}
	return match.at("prefix").text() == "/" || slices.Contains([]string{".*", "/.*"}, match.in("safe_regex", "regex").text())
}

func (l *linter) route(m *manager, routes, host, route node) {
	l.level(m, route)
	action := route.at("route")
	for _, cluster := range action.in("weighted_clusters", "clusters").items() {
		l.level(m, cluster)
	}
	redirect := action.at("internal_redirect_policy")
	l.require(internalRedirect, redirect, !redirect.exists())
	row := Route{
		File: l.file, Listener: m.listener, Host: printable(host.at("name").text()),
		Match: printable(matchText(route.at("match"))), To: printable(target(route)),
	}
	row.Requirement, row.Source = l.requirement(m, route, routes, host)
	if !slices.Contains(l.report.Routes, row) { // several listeners can share routes
		l.report.Routes = append(l.report.Routes, row)
	}
}

// level checks the settings that each of route configuration, virtual host, route and weighted cluster
// may have.
func (l *linter) level(m *manager, level node) {
	l.identityChanges(level)
	for _, settings := range level.at("typed_per_filter_config").fields() {
		kind, config := settings.typed()
		i := slices.IndexFunc(m.filters, func(f filter) bool { return f.name == settings.name })
		if i >= m.check {
			clear := clearsRouteCache(config)
			l.require(routeCache, clear, !clear.exists())
		}
		var f filter
		if i >= 0 {
			f = m.filters[i]
		}
		switch {
		case kind == checkRouteType || kind == moduleRouteType && config.at("filter_name").text() == module:
			isPair := (f.kind == checkType) == (kind == checkRouteType) && f.isCheck()
			l.require(perRouteName, settings.node, isPair)
			l.perRoute(kind, config)
		case kind == disabledType && f.isCheck():
			l.require(checkDisabled, config, !config.at("disabled").isTrue())
		}
	}
}

// perRoute checks the settings of the check in one level.
func (l *linter) perRoute(kind string, config node) {
	settings := config.at("check_settings")
	if config.at("disabled").isTrue() {
		l.find(checkDisabled, config, "disabled: true")
		return
	}
	for _, f := range settings.fields() {
		l.require(perRouteService, f.node, f.name == "context_extensions" || f.name == "contextExtensions" || f.value == false)
	}
	requirement := extensionsOf(kind, config)
	if set, ok := requirement.route(); set && !ok && !requirement.redacted() || requirement.exists() && !set {
		l.find(badRequirement, requirement.node, "%s", requirement.shown())
	}
}

// extensions are the fields of a requirement.
type extensions struct{ node }

func extensionsOf(kind string, config node) extensions {
	if kind == moduleRouteType {
		return extensions{config.in("filter_config", "value")}
	}
	return extensions{config.in("check_settings", "context_extensions")}
}

// route reports whether the fields have a requirement, and whether a credential can meet it.
func (e extensions) route() (set, ok bool) {
	r := e.requirement()
	return r.Set, r.Set && r.Parse().Principal != policy.NoPrincipal
}

// redacted reports whether Envoy's config_dump hides the values: it redacts context_extensions.
func (e extensions) redacted() bool {
	const redacted = "[redacted]"
	return e.at("scope").text() == redacted || e.at("principal").text() == redacted
}

func (e extensions) requirement() extauthz.RouteRequirement {
	scope, principal := e.at("scope"), e.at("principal")
	return extauthz.RouteRequirement{
		Set: scope.exists() || principal.exists(), HasPrincipal: principal.exists(),
		Scope: scope.text(), Principal: principal.text(),
	}
}
