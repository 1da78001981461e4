package operatorapi

import (
	"context"
	"errors"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// pageSize is the most that the API gives at once.
const pageSize = 1000

// List is a whole list, all its pages.
type List[T any] struct {
	Items []T
	// JSON is the list as one page of the API's would be, each thing as it came.
	JSON credential.Secret
}

// Accounts lists all accounts, oldest first.
func (c *Client) Accounts(ctx context.Context) (List[Account], error) {
	return list[Account](ctx, c, paged("accounts", nil, "accounts"))
}

// Keys lists all keys of an account, oldest first.
func (c *Client) Keys(ctx context.Context, account string) (List[Key], error) {
	return list[Key](ctx, c, paged("keys", nil, "accounts", account, "keys"))
}

// Events lists the audit, newest first: of one account and one key where these are
// not "".
func (c *Client) Events(ctx context.Context, account, key string) (List[Event], error) {
	query := url.Values{}
	if account != "" {
		query.Set("account", account)
	}
	if key != "" {
		query.Set("key", key)
	}
	return list[Event](ctx, c, paged("events", query, "audit"))
}

// Sidecars lists the sidecars that may still act on what they have cached.
func (c *Client) Sidecars(ctx context.Context) (List[Sidecar], error) {
	return list[Sidecar](ctx, c, paged("sidecars", nil, "sidecars"))
}

// KeyUsage lists the hours in which a key was used, newest first.
func (c *Client) KeyUsage(ctx context.Context, id string) (List[UsageHour], error) {
	return list[UsageHour](ctx, c, paged("usage", nil, "keys", id, "usage"))
}

func paged(things string, query url.Values, path ...string) Request {
	r := get(things, path...)
	r.query = url.Values{"limit": {strconv.Itoa(pageSize)}}
	for name, values := range query {
		r.query[name] = values
	}
	return r
}

// list reads page after page.
func list[T any](ctx context.Context, c *Client, r Request) (List[T], error) {
	things := r.answers[0]
	items := []T{}
	whole := []byte{}
	for {
		body, status, err := c.send(ctx, r)
		if err != nil {
			return List[T]{}, err
		}
		page, next, err := decodePage(body, things)
		if err != nil {
			return List[T]{}, unreadable(r, status, err)
		}
		for _, raw := range page {
			var item T
			if err := decode(raw, &item); err != nil {
				return List[T]{}, unreadable(r, status, err)
			}
			items = append(items, item)
			if len(whole) > 0 {
				whole = append(whole, ',')
			}
			whole = append(whole, raw...)
		}
		if next == "" {
			break
		}
		if next == r.query.Get("cursor") {
			return List[T]{}, unreadable(r, status, errors.New("the list does not end: its cursor leads to itself"))
		}
		r.query.Set("cursor", next)
	}
	return List[T]{Items: items, JSON: credential.NewSecret(`{"` + things + `":[` + string(whole) + `],"next":null}`)}, nil
}

// decodePage reads {"<things>":[…],"next":"…"|null}.
func decodePage(body []byte, things string) (page []jsontext.Value, next string, err error) {
	var fields map[string]jsontext.Value
	if err := decode(body, &fields); err != nil {
		return nil, "", err
	}
	if fields[things].Kind() != '[' {
		return nil, "", errors.New("it lacks \"" + things + "\"")
	}
	if err := decode(fields[things], &page); err != nil {
		return nil, "", err
	}
	if raw, ok := fields["next"]; ok {
		var cursor *string
		if err := decode(raw, &cursor); err != nil {
			return nil, "", err
		}
		if cursor != nil {
			next = *cursor
		}
	}
	return page, next, nil
}
