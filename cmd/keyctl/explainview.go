package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/explain"
)

// explanationTable shows an explanation, one step in each row, in the order of a check.
func explanationTable(e explain.Explanation) table {
	t := table{
		{"decision", decisionText(e)},
		{"at", moment(&e.At)},
		{"credential", credentialText(e)},
		{"cache", cacheText(e)},
		{"mode", modeText(e.Cache)},
		{"key API", keyAPIText(e.Cache)},
		{"look-up", lookUpText(e.LookUp)},
		{"record", recordText(e)},
		{"requirement", requirementText(e.Requirement)},
	}
	answer := fmt.Sprintf("allow, gRPC status %d", e.Answer.GRPCCode)
	if !e.Answer.Allow {
		answer = fmt.Sprintf("%d, gRPC status %d", e.Answer.Status, e.Answer.GRPCCode)
	}
	t = append(t, []string{"answer", answer})
	if e.Answer.Body != "" {
		t = append(t, []string{"body", visible(e.Answer.Body)})
	}
	for _, name := range slices.Sorted(maps.Keys(e.Answer.Headers)) {
		t = append(t, []string{"header", visible(name + ": " + e.Answer.Headers[name])})
	}
	return t
}

func decisionText(e explain.Explanation) string {
	text := cell(e.Decision) + ": " + cell(e.Reason)
	if e.Late {
		text += ", because the facts came too late"
	}
	if e.Shadow {
		text += "; shadow mode lets the request pass"
	}
	return text
}

func credentialText(e explain.Explanation) string {
	if e.Credential == nil {
		return "none"
	}
	format := map[string]string{
		explain.Invalid: "value not valid in its place", explain.Key: "format of a key, checksum correct", explain.Session: "format of a session, checksum correct",
		explain.Malformed: "prefix of ours, length or checksum wrong", explain.Foreign: "format not ours",
	}[e.Credential.Format]
	text := "key as Bearer"
	if e.Credential.Kind == "session" {
		text = "session as cookie"
	}
	text += ": " + format
	if e.Credential.Digest != "" {
		text += ", SHA-256 " + cell(e.Credential.Digest)
	}
	return text
}

func cacheText(e explain.Explanation) string {
	entry := e.Cache.Entry
	if entry == nil {
		return "not cached"
	}
	text := fmt.Sprintf("%s, revalidated %s ago, pool of credentials in force", cell(entry.Freshness), duration(entry.AgeMS))
	if entry.Pool == "unknown" {
		text = strings.Replace(text, "credentials in force", "unknown and no longer valid credentials", 1)
	}
	if entry.Invalidated {
		text += ", invalidated by a change"
	}
	if entry.MayServe {
		text += ", may be served stale if the key API cannot answer"
	}
	return text
}

func modeText(c explain.Cache) string {
	switch c.Mode {
	case "synced":
		return fmt.Sprintf("synced: the lease ends in %s unless renewed, and nothing cached now answers after %s", duration(c.LeaseLeftMS), duration(c.StaleLeftMS))
	case "degraded":
		return fmt.Sprintf("degraded: the lease has ended, and nothing cached now answers after %s", duration(c.StaleLeftMS))
	case "cold":
		return "cold: no lease, and nothing cached answers"
	case "ttl":
		return "ttl: the key API offers no change log"
	}
	return cell(c.Mode)
}

func keyAPIText(c explain.Cache) string {
	switch {
	case c.KeyAPIDown:
		return "down: look-ups fail, so none is sent"
	case c.PollsFail:
		return "change log cannot be polled"
	}
	return "answers"
}

func lookUpText(l explain.LookUp) string {
	text := map[string]string{
		explain.NotNeeded:   "not needed: the request alone decides",
		explain.Hit:         "cache hit",
		explain.Resolved:    fmt.Sprintf("resolved by the key API in %s", duration(l.TookMS)),
		explain.ServedStale: "served stale: the key API has no usable answer",
		explain.RateLimited: "refused: too many look-ups of unknown credentials",
		explain.Failed:      fmt.Sprintf("failed after %s", duration(l.TookMS)),
	}[l.Result]
	if l.Error != "" {
		text += ": " + visible(l.Error)
	}
	return text
}

func recordText(e explain.Explanation) string {
	r := e.Record
	switch {
	case r == nil && (e.LookUp.Result == explain.NotNeeded || e.LookUp.Error != ""):
		return "-"
	case r == nil:
		return "none: the key API does not have this credential"
	}
	expires := "never expires"
	if r.ExpiresAt != nil {
		expires = "expires " + moment(r.ExpiresAt)
	}
	return fmt.Sprintf("%s %s, %s; account %s, %s; %s; scopes: %s",
		cell(r.Kind), cell(r.ID), cell(r.State), cell(r.Account), cell(r.AccountState), expires, cell(strings.Join(r.Scopes, " ")))
}

func requirementText(r explain.StatedRequirement) string {
	if r.Principal == "" {
		return "none that a credential can meet"
	}
	text := cell(r.Principal)
	if len(r.Scopes) > 0 {
		text += " with " + cell(strings.Join(r.Scopes, " "))
	}
	if r.Source == "endpoints" {
		return text + ", from the sidecar's endpoint table"
	}
	return text + ", as given for Envoy's route"
}

// duration shows milliseconds: up to a second exactly, else in seconds.
func duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	return d.String()
}
