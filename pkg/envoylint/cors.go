package envoylint

import "slices"

// cors checks the filter and the policies. Envoy uses the most specific policy of route, virtual host
// and route configuration as a whole.
func (l *linter) cors(m *manager, routes node) {
	found := false
	for _, f := range m.filters {
		if f.kind == corsType {
			found = true
			l.require(corsDisabled, f.at("disabled"), !f.at("disabled").isTrue())
		}
	}
	if !found {
		l.find(corsOrder, m.at("http_filters"), "no filter cors")
		return
	}
	ofAll := l.corsPolicies(m, routes)
	for _, host := range routes.at("virtual_hosts").items() {
		policies := ofAll + l.corsPolicies(m, host)
		for _, route := range host.at("routes").items() {
			policies += l.corsPolicies(m, route) + l.corsPolicies(m, route.at("route"))
		}
		if policies == 0 {
			l.find(corsPolicy, host, "none in virtual host %s", host.at("name").shown())
		}
	}
}

// corsPolicies checks the policies of one level and returns their number. The field cors of virtual
// hosts and route actions is deprecated and still applies.
func (l *linter) corsPolicies(m *manager, level node) (policies int) {
	if p := level.at("cors"); p.exists() {
		l.corsPolicy(p)
		policies++
	}
	for _, settings := range level.at("typed_per_filter_config").fields() {
		kind, config := settings.typed()
		isCors := slices.ContainsFunc(m.filters, func(f filter) bool { return f.name == settings.name && f.kind == corsType })
		switch {
		case kind == corsPolicyType:
			l.corsPolicy(config)
			policies++
		case kind == disabledType && isCors:
			l.require(corsDisabled, config, !config.at("disabled").isTrue())
		}
	}
	return policies
}

func (l *linter) corsPolicy(p node) {
	origins := p.at("allow_origin_string_match")
	if len(origins.items()) == 0 {
		l.find(corsOrigin, origins, "none")
	}
	for _, origin := range origins.items() {
		exact := origin.at("exact")
		l.require(corsOrigin, origin, exact.exists() && exact.text() == l.Origin && !origin.at("ignore_case").isTrue())
	}
	l.require(corsCredentials, p.at("allow_credentials"), p.at("allow_credentials").isTrue())
	enabled := p.at("filter_enabled")
	l.require(corsDisabled, enabled, !enabled.exists() || isWhole(enabled.at("default_value")))
}

// isWhole reports whether a FractionalPercent is 100%.
func isWhole(fraction node) bool {
	part := fraction.at("numerator").number()
	switch fraction.at("denominator").text() {
	case "", "HUNDRED":
		return part >= 100
	case "TEN_THOUSAND":
		return part >= 10_000
	}
	return part >= 1_000_000
}
