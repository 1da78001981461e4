package config

import (
	"net/url"
	"slices"
	"strings"
)

func (a *Authzd) validate(r *report) {
	if len(a.Listen.Check) == 0 && !r.spoiled("listen.check") {
		r.wrong("listen.check", "an empty list", "one address or more")
	}
	var check []named
	for i, address := range a.Listen.Check {
		check = append(check, named{element("listen.check", i), address})
	}
	r.addresses(append(slices.Clone(check), named{"listen.admin", a.Listen.Admin}), check, a.Listen.TLS)
	a.KeyAPI.validate(r)
	a.WebApp.validate(r)
	r.endpoints(a.Endpoints)
}

const keyAPIForm = "http://HOST[:PORT], https://HOST[:PORT] or unix:///PATH"

func (k *KeyAPI) validate(r *report) {
	const field = "key_api.url"
	if k.TLS != nil {
		r.pair("key_api.tls", k.TLS)
	}
	if k.URL == "" {
		return
	}
	u, ok := r.absoluteURL(field, k.URL, keyAPIForm, "http", "https", "unix")
	if !ok {
		return
	}
	why := ""
	if u.Scheme == "unix" {
		why = wrongSocketPath(strings.TrimPrefix(k.URL, "unix://"))
	} else {
		why = wrongWebHost(u)
	}
	if why != "" {
		r.wrong(field, show(k.URL)+why, keyAPIForm)
	}
	if k.TLS != nil && u.Scheme != "https" {
		r.wrong("key_api.tls", "TLS for "+u.Scheme+"://", "for https:// only")
	}
}

const originForm = "https://HOST[:PORT] or http://HOST[:PORT] as browsers send it"

func (w *WebApp) validate(r *report) {
	r.scopeNames("web_app.scopes", w.Scopes)
	if len(w.Cookie) > 128 || !isToken(w.Cookie) {
		r.wrong("web_app.cookie", show(w.Cookie), "a cookie's name: up to 128 ASCII letters, digits and any of !#$%&'*+-.^_`|~")
	}
	u, ok := r.absoluteURL("web_app.origin", w.Origin, originForm, "https", "http")
	if !ok {
		return
	}
	if why := wrongOrigin(u, w.Origin); why != "" {
		r.wrong("web_app.origin", show(w.Origin)+why, originForm)
	}
}

// wrongOrigin says what keeps the value from ever being what a browser sends as Origin,
// or "": the comparison is exact.
func wrongOrigin(u *url.URL, value string) string {
	switch why := wrongWebHost(u); {
	case why != "":
		return why
	case u.Path != "":
		return ", which has a path"
	case strings.ToLower(value) != value:
		return ", which has capital letters"
	case u.Port() == "443" && u.Scheme == "https", u.Port() == "80" && u.Scheme == "http":
		return ", which names the scheme's own port"
	}
	return ""
}

// isToken tells whether s is a token of RFC 9110: the name of a cookie or a method.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, tokenCharacters) == ""
}

const tokenCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
