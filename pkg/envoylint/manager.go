package envoylint

import (
	"reflect"
	"slices"
	"strings"
)

// Types of messages.
const (
	managerType     = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	routesType      = "envoy.config.route.v3.RouteConfiguration"
	clusterType     = "envoy.config.cluster.v3.Cluster"
	extensionType   = "envoy.config.core.v3.TypedExtensionConfig"
	bootstrapDump   = "envoy.admin.v3.BootstrapConfigDump"
	matcherType     = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
	checkType       = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	checkRouteType  = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
	moduleType      = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
	moduleRouteType = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute"
	disabledType    = "envoy.config.route.v3.FilterConfig"
	corsType        = "envoy.extensions.filters.http.cors.v3.Cors"
	corsPolicyType  = "envoy.extensions.filters.http.cors.v3.CorsPolicy"
	mutationType    = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"

	// module is the name of the Envoy module and of its filter.
	module = "phantom_authz"
)

// manager is an HTTP connection manager.
type manager struct {
	node
	listener string
	filters  []filter
	check    int // index of the first filter of the check, -1 without one
}

// filter is an HTTP filter.
type filter struct {
	node
	name, kind  string
	config      node
	conditional bool // a matcher can skip it
}

func (f filter) isModule() bool {
	return f.kind == moduleType && (f.config.at("filter_name").text() == module || f.config.in("dynamic_module_config", "name").text() == module)
}

func (f filter) isCheck() bool { return f.kind == checkType || f.isModule() }

// collect finds what the rules need at any depth: static files, config_dump and lists of listeners,
// as istioctl prints them, have it in different places.
func (l *linter) collect(n node, listener string) {
	if l.routes == nil {
		l.routes, l.extensions, l.clusters, l.checked = map[string]node{}, map[string]node{}, map[string]node{}, map[string]bool{}
		l.isDump = n.at("configs").exists()
	}
	kind, message := n.typed()
	name := message.at("name").text()
	if message.at("filter_chains").exists() || message.at("default_filter_chain").exists() || message.at("api_listener").exists() {
		listener = name
	}
	switch kind {
	case managerType:
		l.found = append(l.found, &manager{node: message, listener: listener})
	case routesType:
		l.routes[name] = message
	case extensionType:
		l.extensions[name] = message
	case clusterType:
		l.clusters[name] = message
	}
	l.static(n)
	for _, f := range n.fields() {
		switch {
		case f.name == "draining_state", f.name == "error_state", f.name == "drainingState", f.name == "errorState":
			// What Envoy no longer uses, or has rejected.
		case l.isDump && kind == bootstrapDump:
			l.static(f.node) // its listeners follow once more
		default:
			l.collect(f.node, listener)
		}
	}
	for _, item := range n.items() {
		l.collect(item, listener)
	}
}

// static collects what a bootstrap has without types: the admin address and the clusters.
func (l *linter) static(n node) {
	if admin := n.in("admin", "address"); admin.exists() {
		l.admin = admin
	}
	for _, cluster := range n.in("static_resources", "clusters").items() {
		l.clusters[cluster.at("name").text()] = cluster
	}
}

// managers checks all HTTP connection managers.
func (l *linter) managers() {
	checked := 0
	for _, m := range l.found {
		if len(l.Listeners) == 0 || slices.Contains(l.Listeners, m.listener) {
			l.manager(m)
			checked++
		}
	}
	if checked == 0 {
		l.find(noManager, l.root, "none")
	}
}

func (l *linter) manager(m *manager) {
	m.check = -1
	for _, n := range m.at("http_filters").items() {
		m.filters = append(m.filters, l.filterOf(n))
	}
	for i, f := range m.filters {
		if m.check < 0 && f.isCheck() {
			m.check = i
		}
	}
	routes, known := l.routesOf(m)
	if l.servesAdmin(routes) || known && !hasTargets(routes) {
		return
	}
	if m.check < 0 {
		l.find(checkMissing, m.at("http_filters"), "%s", strings.Join(names(m.filters), ", "))
		return
	}
	if !known {
		l.find(routesUnknown, m.at("rds"), "%s", m.at("rds").shown())
	}
	for i, f := range m.filters {
		switch {
		case f.kind == checkType:
			l.extAuthz(f)
		case f.isModule():
			l.module(f)
		}
		l.place(m, i, f)
	}
	l.connection(m)
	l.request(m)
	l.localReplies(m)
	l.hosts(m, routes, known)
}

// filterOf reads a filter, and looks through what is around it.
func (l *linter) filterOf(n node) filter {
	f := filter{node: n, name: n.at("name").text()}
	config := n.at("typed_config")
	if n.at("config_discovery").exists() {
		config = l.extensions[f.name].at("typed_config")
	}
	f.kind, f.config = config.typed()
	if f.kind == matcherType {
		f.conditional = true
		f.kind, f.config = f.config.in("extension_config", "typed_config").typed()
	}
	return f
}

func names(filters []filter) []string {
	all := make([]string, len(filters))
	for i, f := range filters {
		all[i] = f.name
	}
	return all
}

// routesOf returns the route configuration. Known false means that it is not in the file.
func (l *linter) routesOf(m *manager) (routes node, known bool) {
	if inline := m.at("route_config"); inline.exists() {
		return inline, true
	}
	routes, known = l.routes[m.in("rds", "route_config_name").text()]
	return routes, known
}

// hasTargets reports whether a route sends requests to a cluster. Without one all answers are Envoy's.
func hasTargets(routes node) bool {
	for _, host := range routes.at("virtual_hosts").items() {
		if host.at("matcher").exists() {
			return true
		}
		for _, route := range host.at("routes").items() {
			if !route.at("direct_response").exists() && !route.at("redirect").exists() {
				return true
			}
		}
	}
	return false
}

// servesAdmin reports whether all routes with a cluster lead to Envoy's admin interface. Such a
// listener needs no check if it offers exact paths only.
func (l *linter) servesAdmin(routes node) bool {
	targets := 0
	for _, host := range routes.at("virtual_hosts").items() {
		for _, route := range host.at("routes").items() {
			cluster := route.in("route", "cluster")
			if !cluster.exists() && (route.at("direct_response").exists() || route.at("redirect").exists()) {
				continue
			}
			if !l.isAdmin(cluster.text()) {
				return false
			}
			targets++
		}
	}
	if targets == 0 {
		return false
	}
	for _, host := range routes.at("virtual_hosts").items() {
		for _, route := range host.at("routes").items() {
			match := route.at("match")
			if route.at("route").exists() && !match.at("path").exists() {
				l.find(adminExposed, match, "%s", match.shown())
			}
		}
	}
	return true
}

// isAdmin reports whether every endpoint of the cluster is Envoy's admin listener.
func (l *linter) isAdmin(cluster string) bool {
	all := 0
	for _, endpoints := range l.clusters[cluster].in("load_assignment", "endpoints").items() {
		for _, e := range endpoints.at("lb_endpoints").items() {
			all++
			if !l.admin.exists() || !reflect.DeepEqual(e.in("endpoint", "address").value, l.admin.value) {
				return false
			}
		}
	}
	return all > 0
}
