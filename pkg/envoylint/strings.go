package envoylint

import (
	"regexp"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// matchesString evaluates a StringMatcher. One that cannot be evaluated matches nothing.
func matchesString(matcher node, text string) bool {
	if matcher.at("ignore_case").isTrue() {
		text = strings.ToLower(text)
	}
	for _, f := range matcher.fields() {
		want := f.text()
		if matcher.at("ignore_case").isTrue() {
			want = strings.ToLower(want)
		}
		switch f.name {
		case "exact":
			return text == want
		case "prefix":
			return strings.HasPrefix(text, want)
		case "suffix":
			return strings.HasSuffix(text, want)
		case "contains":
			return strings.Contains(text, want)
		case "safe_regex", "safeRegex":
			return matchesRegex(f.node, text)
		}
	}
	return false
}

// matchesRegex evaluates a RegexMatcher, which must match the whole text. Envoy's RE2 and Go have the
// same syntax.
func matchesRegex(matcher node, text string) bool {
	if !matcher.at("regex").exists() {
		return false
	}
	pattern, err := regexp.Compile(`^(?:` + matcher.at("regex").text() + `)$`)
	return err == nil && pattern.MatchString(text)
}

// identity are names of identity headers: those that the sidecar sets, and one that it may set later.
var identity = []string{
	credential.AccountHeader, credential.PrincipalHeader, credential.CredentialHeader, credential.ScopesHeader,
	credential.ReservedPrefix + "other",
}

// withUnderscores returns the other spelling of an identity header.
func withUnderscores(name string) string { return strings.ReplaceAll(name, "-", "_") }
