package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// listing is a list in both output formats.
type listing struct {
	table table
	json  credential.Secret
}

func newListing[T any](list operatorapi.List[T], err error, header []string, row func(T) []string) (listing, error) {
	l := listing{table: table{header}, json: list.JSON}
	for _, item := range list.Items {
		l.table = append(l.table, row(item))
	}
	return l, err
}

func listAccounts(ctx context.Context, c *operatorapi.Client, _ options) (listing, error) {
	list, err := c.Accounts(ctx)
	return newListing(list, err, []string{"ID", "NAME", "STATE", "CREATED", "TERMINATED"}, func(a operatorapi.Account) []string {
		return []string{cell(a.ID), cell(a.Name), cell(a.State), moment(&a.CreatedAt), moment(a.TerminatedAt)}
	})
}

func listKeys(ctx context.Context, c *operatorapi.Client, o options) (listing, error) {
	list, err := c.Keys(ctx, o.account)
	header := []string{"ID", "LABEL", "HINT", "STATE", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REPLACED BY"}
	return newListing(list, err, header, func(k operatorapi.Key) []string {
		return []string{
			cell(k.ID), cell(k.Label), hint(k), keyState(k), cell(strings.Join(k.Scopes, " ")),
			moment(&k.CreatedAt), moment(k.ExpiresAt), moment(k.LastUsedAt), optional(k.ReplacedBy),
		}
	})
}

func listSidecars(ctx context.Context, c *operatorapi.Client, _ options) (listing, error) {
	list, err := c.Sidecars(ctx)
	return newListing(list, err, []string{"NAME", "REVISION", "LEASE ENDS", "STALE ENDS"}, func(s operatorapi.Sidecar) []string {
		return []string{cell(s.Name), strconv.FormatInt(s.Revision, 10), moment(&s.LeaseEndsAt), moment(&s.StaleEndsAt)}
	})
}

func listEvents(ctx context.Context, c *operatorapi.Client, o options) (listing, error) {
	list, err := c.Events(ctx, o.account, o.key)
	return newListing(list, err, []string{"AT", "ACTOR", "ACTION", "ACCOUNT", "KEY", "DETAIL"}, func(e operatorapi.Event) []string {
		return []string{moment(&e.At), cell(e.Actor), cell(e.Action), cell(e.Account), optional(e.Key), detail(e.Detail)}
	})
}

func listUsage(ctx context.Context, c *operatorapi.Client, o options) (listing, error) {
	list, err := c.KeyUsage(ctx, o.id)
	return newListing(list, err, []string{"HOUR", "ALLOWED", "DENIED"}, func(u operatorapi.UsageHour) []string {
		return []string{moment(&u.Hour), strconv.FormatInt(u.Allowed, 10), strconv.FormatInt(u.Denied, 10)}
	})
}

// answerTable shows the objects of an answer, with one field in each row.
func answerTable(a operatorapi.Answer) table {
	var t table
	add := func(name, value string) { t = append(t, []string{name, value}) }
	switch {
	case a.Account != nil:
		add("account", cell(a.Account.ID))
		add("name", cell(a.Account.Name))
		add("state", cell(a.Account.State))
		add("created", moment(&a.Account.CreatedAt))
		add("terminated", moment(a.Account.TerminatedAt))
	case a.Session != nil:
		add("session", cell(a.Session.ID))
		add("account", cell(a.Session.Account))
		add("created", moment(&a.Session.CreatedAt))
		add("expires", moment(&a.Session.ExpiresAt))
	case a.Key != nil:
		add("key", cell(a.Key.ID))
		add("account", cell(a.Key.Account))
		add("label", cell(a.Key.Label))
		add("hint", hint(*a.Key))
		add("state", keyState(*a.Key))
		add("scopes", cell(strings.Join(a.Key.Scopes, " ")))
		add("created", moment(&a.Key.CreatedAt)+" by "+cell(a.Key.CreatedBy))
		add("expires", moment(a.Key.ExpiresAt))
		add("revoked", moment(a.Key.RevokedAt))
		add("last used", moment(a.Key.LastUsedAt))
		add("replaced by", optional(a.Key.ReplacedBy))
	case a.Sidecar != nil:
		add("sidecar", cell(a.Sidecar.Name))
		add("revision", strconv.FormatInt(a.Sidecar.Revision, 10))
		add("lease ends", moment(&a.Sidecar.LeaseEndsAt))
		add("stale ends", moment(&a.Sidecar.StaleEndsAt))
	}
	if a.Revoked != nil {
		add("revoked now", cell(strings.Join(a.Revoked, " ")))
	}
	if a.Replaced != nil {
		until := "revoked"
		if a.Replaced.RevokedAt == nil {
			until = "expires " + moment(a.Replaced.ExpiresAt)
		}
		add("replaces", cell(a.Replaced.ID)+", "+until)
	}
	return t
}

// cell makes a text from outside safe for a table. An empty text is a dash.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return visible(s)
}

func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func hint(k operatorapi.Key) string {
	if k.Hint == nil {
		return "-"
	}
	return cell(*k.Hint + "…")
}

func optional(s *string) string {
	if s == nil {
		return "-"
	}
	return cell(*s)
}

// keyState returns the state, or expired, which is not a state of the API.
func keyState(k operatorapi.Key) string {
	if k.State == "active" && k.ExpiresAt != nil && !time.Now().Before(*k.ExpiresAt) {
		return "expired"
	}
	return cell(k.State)
}

func detail(fields map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := visible(fields[name])
		if value == "" || strings.ContainsAny(value, ` "=`) {
			value = strconv.Quote(fields[name])
		}
		parts = append(parts, visible(name)+"="+value)
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}
