package envoylint

import (
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// maxHeadersKB is the largest max_request_headers_kb, of which a message of authzd's limit has room
// for path, host and its own fields. Larger makes requests with long headers errors in place of 431.
const maxHeadersKB = 96

// request checks how the connection manager treats a request before the filters.
func (l *linter) request(m *manager) {
	// The defaults are false, false and the runtime's.
	for _, name := range []string{"normalize_path", "merge_slashes"} {
		l.require(pathNormalized, m.at(name), m.at(name).isTrue())
	}
	escaped := m.at("path_with_escaped_slashes_action")
	l.require(pathNormalized, escaped, slices.Contains([]string{"REJECT_REQUEST", "UNESCAPE_AND_REDIRECT"}, escaped.text()))
	action := m.in("common_http_protocol_options", "headers_with_underscores_action")
	l.require(underscores, action, slices.Contains([]string{"REJECT_REQUEST", "DROP_HEADER"}, action.text()))
	kb := m.at("max_request_headers_kb").number() // 60 by default
	l.require(headerLimits, m.at("max_request_headers_kb"), kb <= maxHeadersKB)
	for _, upgrade := range m.at("upgrade_configs").items() {
		l.require(upgradeFilters, upgrade.at("filters"), !upgrade.at("filters").exists())
	}
	early := m.at("early_header_mutation_extensions")
	for _, name := range identity {
		if !slices.ContainsFunc(early.items(), func(extension node) bool { return removes(extension, name) }) {
			l.find(identityHeaders, early, "%s is not removed", name)
			break
		}
	}
}

// removes reports whether an early header mutation removes a header.
func removes(extension node, name string) bool {
	_, config := extension.at("typed_config").typed()
	return slices.ContainsFunc(config.at("mutations").items(), func(mutation node) bool {
		return strings.EqualFold(mutation.at("remove").text(), name) || matchesString(mutation.in("remove_on_match", "key_matcher"), name)
	})
}

// connection checks that a filter behind the check overwrites Connection.
func (l *linter) connection(m *manager) {
	for _, f := range m.filters[m.check:] {
		for _, mutation := range f.config.in("mutations", "request_mutations").items() {
			header := mutation.in("append", "header", "key").text()
			action := mutation.in("append", "append_action").text()
			if f.kind == mutationType && strings.EqualFold(header, "connection") && strings.HasPrefix(action, "OVERWRITE_IF_EXISTS") {
				return
			}
		}
	}
	l.find(connectionHeader, m.at("http_filters"), "none")
}

// identityMutations checks the mutations of a filter behind the check. ADD_IF_ABSENT with an empty
// value adds the header that the module cannot set.
func (l *linter) identityMutations(mutations node) {
	for _, mutation := range mutations.items() {
		written := mutation.at("append")
		isIdentity := credential.IsReserved(written.in("header", "key").text())
		added := written.at("append_action").text() == "ADD_IF_ABSENT" && written.in("header", "value").text() == ""
		removed := slices.ContainsFunc(identity, func(name string) bool {
			return strings.EqualFold(mutation.at("remove").text(), name) || matchesString(mutation.in("remove_on_match", "key_matcher"), name)
		})
		if isIdentity && !added || removed {
			l.find(identityChanged, mutation, "%s", mutation.shown())
		}
	}
}

// identityChanges checks the headers that a route configuration, virtual host, route or weighted
// cluster adds or removes. Envoy does that when it sends the request, after all filters.
func (l *linter) identityChanges(level node) {
	for _, name := range level.at("request_headers_to_remove").items() {
		l.require(identityChanged, name, !credential.IsReserved(name.text()))
	}
	for _, option := range level.at("request_headers_to_add").items() {
		l.require(identityChanged, option, !credential.IsReserved(option.in("header", "key").text()))
	}
}
