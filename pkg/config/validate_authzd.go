package config

import (
	"net/url"
	"slices"
	"strings"
)

func (a *Authzd) validate(r *report) {
	if len(a.Listen.Check) == 0 && !r.hasMistake("listen.check") {
		r.invalid("listen.check", "must have at least one address")
	}
	var check []listener
	for i, address := range a.Listen.Check {
		check = append(check, listener{element("listen.check", i), address})
	}
	r.addresses(append(slices.Clone(check), listener{"listen.admin", a.Listen.Admin}), check, a.Listen.TLS)
	a.KeyAPI.validate(r)
	a.WebApp.validate(r)
	r.endpoints(a.Endpoints)
}

const keyAPIForm = "http://HOST[:PORT], https://HOST[:PORT] or unix:///PATH"

func (k *KeyAPI) validate(r *report) {
	if k.TLS != nil {
		r.clientTLS("key_api.tls", k.TLS)
	}
	if k.URL == "" {
		return // a mistake already
	}
	u, ok := r.url("key_api.url", k.URL, keyAPIForm, "http", "https", "unix")
	if !ok {
		return
	}
	err := checkWebHost(u)
	if u.Scheme == "unix" {
		err = checkSocketPath(strings.TrimPrefix(k.URL, "unix://"))
	}
	if err != nil {
		r.invalid("key_api.url", err.Error())
	}
	if k.TLS != nil && u.Scheme != "https" {
		r.invalid("key_api.tls", "must be used with an https:// URL")
	}
}

const originForm = "https://HOST[:PORT] or http://HOST[:PORT]"

func (w *WebApp) validate(r *report) {
	r.scopes("web_app.scopes", w.Scopes)
	if len(w.Cookie) > 128 || !isToken(w.Cookie) {
		r.invalid("web_app.cookie", "must be a cookie name: up to 128 ASCII letters, digits and any of !#$%&'*+-.^_`|~")
	}
	u, ok := r.url("web_app.origin", w.Origin, originForm, "https", "http")
	if !ok {
		return
	}
	if err := checkWebHost(u); err != nil {
		r.invalid("web_app.origin", err.Error())
	} else if !isOrigin(u, w.Origin) {
		r.invalid("web_app.origin", "must be an origin as browsers send it: lower case, without path and default port")
	}
}

// isOrigin reports whether a browser can send the value as Origin. The comparison is exact.
func isOrigin(u *url.URL, value string) bool {
	defaultPort := u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"
	return u.Path == "" && strings.ToLower(value) == value && !defaultPort
}

// isToken reports whether s is a token of RFC 9110: the name of a cookie or a method.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, tokenCharacters) == ""
}

const tokenCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
