package envoylint

import (
	"regexp"
	"slices"
	"strings"
)

// localReplies checks that local_reply_config leaves denials as they are. Envoy applies the first mapper
// that matches to every answer of its own, and to those of a check.
func (l *linter) localReplies(m *manager) {
	config := m.at("local_reply_config")
	l.require(localReplyRewrite, config.at("body_format"), !config.at("body_format").exists())
	unavailable := m.filters[m.check].isModule() // it answers itself
	for _, mapper := range config.at("mappers").items() {
		filter := mapper.at("filter")
		rewrites := mapper.at("status_code").exists() || mapper.at("body").exists() || mapper.at("body_format_override").exists()
		if rewrites && !sparesDenials(filter) {
			l.find(localReplyRewrite, filter, "%s", filter.shown())
		}
		for _, option := range mapper.at("headers_to_add").items() {
			l.require(appendAction, option, strings.HasPrefix(option.at("append_action").text(), "OVERWRITE_"))
		}
		unavailable = unavailable || handlesErrors(filter)
	}
	if !unavailable {
		l.find(localReplyMissing, config.at("mappers"), "none")
	}
}

// denials are the statuses of the deny table.
var denials = []float64{401, 403, 429, 503}

// celFilter evaluates an expression.
const celFilter = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"

// sparesDenials reports whether an access log filter cannot match a denial of authzd. Of kinds of
// filters that depend on the request it reports false.
func sparesDenials(filter node) bool {
	for _, f := range filter.fields() {
		switch f.name {
		case "status_code_filter", "statusCodeFilter":
			return !slices.ContainsFunc(denials, func(status float64) bool { return compares(f.at("comparison"), status) })
		case "response_flag_filter", "responseFlagFilter":
			flags := f.at("flags").items()
			return len(flags) > 0 && !slices.ContainsFunc(flags, func(flag node) bool { return flag.text() == "UAEX" })
		case "and_filter", "andFilter":
			return slices.ContainsFunc(f.at("filters").items(), sparesDenials)
		case "or_filter", "orFilter":
			return !slices.ContainsFunc(f.at("filters").items(), func(n node) bool { return !sparesDenials(n) })
		case "extension_filter", "extensionFilter":
			return expressionSparesDenials(expression(f.node))
		}
	}
	return false
}

var literal = regexp.MustCompile(`'([^']+)'|"([^"]+)"`)

// expressionSparesDenials judges a CEL expression by its text. It spares denials if each alternative
// compares response.code_details, without a negation or a regular expression, and with no part of
// ext_authz_denied.
func expressionSparesDenials(text string) bool {
	for _, alternative := range alternatives(text) {
		if !strings.Contains(alternative, "response.code_details") {
			return false
		}
	}
	for _, found := range literal.FindAllString(text, -1) {
		if strings.Contains("ext_authz_denied", strings.Trim(found, `'"`)) {
			return false
		}
	}
	return !strings.Contains(text, "!") && !strings.Contains(text, "matches(")
}

// alternatives splits an expression at || outside of parentheses.
func alternatives(text string) []string {
	depth, start := 0, 0
	var parts []string
	for i := range len(text) {
		switch {
		case text[i] == '(':
			depth++
		case text[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(text[i:], "||"):
			parts = append(parts, text[start:i])
			start = i + 2
		}
	}
	return append(parts, text[start:])
}

// handlesErrors reports whether a filter matches the errors of ext_authz.
func handlesErrors(filter node) bool {
	comparison := filter.in("status_code_filter", "comparison")
	return strings.Contains(expression(filter.at("extension_filter")), "ext_authz_error") || comparison.exists() && compares(comparison, 511)
}

// expression returns the text of a CEL filter.
func expression(extension node) string {
	if kind, config := extension.at("typed_config").typed(); kind == celFilter {
		return config.at("expression").text()
	}
	return ""
}

// compares evaluates a ComparisonFilter. A runtime value can replace its number, which is ignored here.
func compares(comparison node, status float64) bool {
	number := comparison.in("value", "default_value").number()
	switch comparison.at("op").text() {
	case "GE":
		return status >= number
	case "LE":
		return status <= number
	case "NE":
		return status != number
	}
	return status == number
}
