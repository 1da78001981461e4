package envoymodule

import (
	"strconv"
	"time"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Names that are those of the ext_authz filter, so that access logs and filters work with either
// front.
const (
	// metadataNamespace is the namespace of the dynamic metadata.
	metadataNamespace = "envoy.filters.http.ext_authz"
	// details is %RESPONSE_CODE_DETAILS% of a denial, also of a 503 that authzd would answer.
	details = "ext_authz_denied"
)

// apply answers the check and changes the request or sends the denial. It reports whether the request
// may continue.
func (f *filter) apply(headers shared.HeaderMap) bool {
	answer := f.outcome.Answer()
	f.report(&answer.Meta)
	if !answer.Allow {
		f.reply(&answer)
		return false
	}
	for _, header := range answer.Set {
		headers.Set(header.Name, header.Value) // an empty value removes the header: see RenderModule in package envoy
	}
	for _, name := range answer.Remove {
		headers.Remove(name)
	}
	return true
}

// report sets the dynamic metadata and counts the check.
func (f *filter) report(m *extauthz.Metadata) {
	h := f.handle
	for _, text := range m.Texts() {
		if text.Value != "" {
			h.SetMetadataString(metadataNamespace, text.Key, text.Value)
		}
	}
	if m.Principal != "" {
		for i := range m.Scopes.Len() {
			h.AddMetadataListString(metadataNamespace, "scopes", m.Scopes.At(i))
		}
	}
	if f.cancel != nil { // it waited; a call of Envoy for each hit costs more than the check that it would measure
		us := time.Since(f.request.Arrived).Microseconds()
		h.SetMetadataString(metadataNamespace, "check_us", strconv.FormatInt(us, 10)) // a string in the log, as that of ext_authz
	}
	if id, ok := f.factory.counters[m.Reason]; ok {
		h.IncrementCounterValue(id, 1)
	}
}

// reply sends a denial.
func (f *filter) reply(a *extauthz.Answer) {
	headers := make([][2]string, 0, len(a.Set))
	for _, header := range a.Set {
		headers = append(headers, [2]string{header.Name, header.Value})
	}
	f.replied = true
	f.handle.SendLocalResponse(uint32(a.Status), headers, []byte(a.Body), details)
}

// fail answers a check that panicked, and reports whether the request may continue: only in shadow
// mode, and only if it was read, because reserved headers must be removed. If that panics too, it
// answers without the check.
func (f *filter) fail(headers shared.HeaderMap) (allowed bool) {
	defer func() {
		if value := recover(); value != nil {
			f.factory.panicked(value)
			f.refuse()
			allowed = false
		}
	}()
	if f.wasRead { // else the outcome is zero, which is answered as failed
		f.outcome = f.factory.Checker.Fail(&f.request)
	}
	return !f.replied && f.apply(headers)
}

// refuse sends the denial of a failed check. If that panics, or a reply was sent already, the stream
// stays stopped.
func (f *filter) refuse() {
	defer f.factory.recovered()
	if !f.replied {
		answer := extauthz.Failed()
		f.reply(&answer)
	}
}
