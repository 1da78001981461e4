package envoy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// notChecked is an edit that excludes /api/v1/me from the checks of a setup.
func notChecked(s setup) edit {
	return func(config map[string]any) {
		settings := meSettings(config)
		if s.front == module {
			settings[moduleFilter] = map[string]any{"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}
			return
		}
		perRoute := settings[authzFilter].(map[string]any)
		delete(perRoute, "check_settings")
		perRoute["disabled"] = true
	}
}

const authzFilter = "envoy.filters.http.ext_authz"

// TestDisabledRouteIsNotChecked: the client's identity headers are removed nevertheless.
func TestDisabledRouteIsNotChecked(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{}, notChecked(s))
		got := p.do(t, request{path: "/api/v1/me"}.with("X-Phantom-Account-Id: acc_evil", "X-Phantom-Scopes: admin", bearer(env.creds.Revoked)))
		echo, ok := got.upstream()
		want := map[string][]string{"authorization": {"Bearer " + env.creds.Revoked}}
		if s.front == module {
			want["x-phantom-scopes"] = []string{""} // a listed difference
		}
		if diff := cmp.Diff(want, secretsAndIdentity(echo)); !ok || diff != "" {
			t.Errorf("%d, at the upstream (-want +got):\n%s", got.status, diff)
		}
		noCredential.check(t, p.do(t, request{path: "/api/v1/me/"}))
		noCredential.check(t, p.do(t, request{path: companion}))
	})
}

// TestSettingsOfAnotherFilterDeny: a route without settings of its front has no requirement.
func TestSettingsOfAnotherFilterDeny(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		own, other := authzFilter, setup{s.version, module}
		if s.front == module {
			own, other = moduleFilter, setup{s.version, authzd}
		}
		rendered, err := env.render(other, envoy.Addresses{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		settings := meSettings(decode(t, rendered))
		var foreign any
		for name, value := range settings {
			if name == authzFilter || name == moduleFilter {
				foreign = value
			}
		}
		for name, edit := range map[string]edit{
			"another name": func(config map[string]any) {
				settings := meSettings(config)
				settings["another"] = settings[own]
				delete(settings, own)
			},
			"another type": func(config map[string]any) { meSettings(config)[own] = foreign },
			"none":         func(config map[string]any) { delete(meSettings(config), own) },
		} {
			t.Run(name, func(t *testing.T) {
				p := env.ownEnvoy(t, s, envoy.Addresses{}, edit)
				noPolicy.check(t, p.do(t, request{path: "/api/v1/me"}.with(bearer(env.creds.Plain))))
			})
		}
	})
}

// TestCheckDoesNotChangeTheRoute: a route that matches what the check adds does not apply.
func TestCheckDoesNotChangeTheRoute(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{}, func(config map[string]any) {
			host := virtualHost(config)
			byHeader := func(match map[string]any) map[string]any {
				return map[string]any{"match": map[string]any{"prefix": "/", "headers": []any{match}}, "direct_response": map[string]any{"status": 418}}
			}
			host["routes"] = append([]any{
				byHeader(map[string]any{"name": "x-phantom-principal", "present_match": true}),
				byHeader(map[string]any{"name": "authorization", "string_match": map[string]any{"exact": ""}}),
			}, host["routes"].([]any)...)
		})
		got := p.do(t, request{path: "/api/v1/me"}.with(bearer(env.creds.Plain), "X-Phantom-Principal: key"))
		if _, ok := got.upstream(); !ok {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// TestInternalRedirectIsChecked: with the requirement of the new route and without the credential, which the first check
// removed.
func TestInternalRedirectIsChecked(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v1/me" {
				w.Header().Set("Location", "http://api.example"+companion)
				w.WriteHeader(http.StatusFound)
			}
		}))
		for _, shadow := range []bool{false, true} {
			p := env.ownChecks(t, s, envoy.Addresses{Upstream: "tcp://" + upstream.addr}, testbed.Config{"shadow": shadow}, func(config map[string]any) {
				for _, r := range virtualHost(config)["routes"].([]any) {
					if route, ok := r.(map[string]any)["route"].(map[string]any); ok {
						route["internal_redirect_policy"] = map[string]any{}
					}
				}
			}, logMetadata)
			r := request{path: "/api/v1/me"}.with(bearer(env.creds.Chat))
			got := p.do(t, r)
			if !shadow {
				noCredential.check(t, got)
				continue
			}
			if got.status != 200 {
				t.Errorf("shadow: %d %s", got.status, got.body)
			}
			entry := p.logEntry(t, companion)
			want := map[string]any{
				"decision": "allow", "shadow_decision": "allow", "reason": "ok", "principal": "key",
				"account_id": env.creds.Account, "credential_id": env.creds.ChatID, "scopes": []any{"chat:companion"},
			}
			if diff := cmp.Diff(want, checkMetadata(entry)); diff != "" {
				t.Errorf("metadata after a redirect (-want +got):\n%s", diff)
			}
		}
	})
}

// logMetadata is an edit that adds the dynamic metadata of checks to the access log.
func logMetadata(config map[string]any) {
	log := manager(config)["access_log"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)["log_format"].(map[string]any)
	log["json_format"].(map[string]any)["metadata"] = "%DYNAMIC_METADATA(" + authzFilter + ")%"
}

// checkMetadata returns the dynamic metadata in a line of the access log, without the listed differences: times, and an
// empty list of scopes, which the module cannot set.
func checkMetadata(entry map[string]any) map[string]any {
	m, _ := entry["metadata"].(map[string]any)
	delete(m, "check_us")
	delete(m, "ext_authz_duration")
	if scopes, _ := m["scopes"].([]any); len(scopes) == 0 {
		delete(m, "scopes")
	}
	return m
}

func TestDynamicMetadata(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{}, logMetadata)
		c := env.creds
		identity := func(id, principal string, more map[string]any) map[string]any {
			m := map[string]any{"account_id": c.Account, "credential_id": id, "principal": principal}
			for name, value := range more {
				m[name] = value
			}
			return m
		}
		chat := []any{"chat:companion"}
		for i, r := range []struct {
			request
			want map[string]any
		}{
			{request{}.with(bearer(c.Chat)), identity(c.ChatID, "key", map[string]any{"decision": "allow", "reason": "ok", "scopes": chat})},
			{request{}.with(bearer(c.Plain)), identity(c.PlainID, "key", map[string]any{"decision": "deny", "reason": "scope_missing"})},
			{request{}.with(webApp, cookie(c.Session)), identity(c.SessionID, "session", map[string]any{"decision": "allow", "reason": "ok", "scopes": chat})},
			{request{}.with(bearer(c.Unknown)), map[string]any{"decision": "deny", "reason": "key_unknown"}},
			{request{}, map[string]any{"decision": "deny", "reason": "no_credential"}},
		} {
			r.path = fmt.Sprintf("%s/metadata-%d", companion, i)
			p.do(t, r.request)
			if diff := cmp.Diff(r.want, checkMetadata(p.logEntry(t, r.path))); diff != "" {
				t.Errorf("%d (-want +got):\n%s", i, diff)
			}
		}
	})
}

// TestEnvoyCountsChecks: Envoy's own statistics have the module's checks by reason.
func TestEnvoyCountsChecks(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{})
		for range 3 {
			p.expectAllowed(t)
		}
		p.do(t, request{path: companion})
		p.do(t, request{path: companion}.with(bearer(env.creds.Plain)))
		p.do(t, request{path: companion}.with(bearer(env.creds.Unknown)))
		for reason, want := range map[string]int{"ok": 3, "no_credential": 1, "scope_missing": 1, "key_unknown": 1, "key_revoked": 0, "unavailable": 0} {
			if got := p.stat(t, "dynamicmodulescustom.phantom_authz.checks."+reason); got != want {
				t.Errorf("%d checks with reason %s, want %d", got, reason, want)
			}
		}
	})
}
