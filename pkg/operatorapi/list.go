package operatorapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// pageSize is the maximum that the API allows. Smaller takes more requests.
const pageSize = 1000

// List is a whole list, all pages of it.
type List[T any] struct {
	Items []T
	// JSON is the list in the form of a single page, with the items as the API sent them.
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

// Events lists the audit, newest first. account and key filter it unless they are "".
func (c *Client) Events(ctx context.Context, account, key string) (List[Event], error) {
	query := url.Values{}
	for name, value := range map[string]string{"account": account, "key": key} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return list[Event](ctx, c, paged("events", query, "audit"))
}

// Sidecars lists the sidecars that may still use cached credentials.
func (c *Client) Sidecars(ctx context.Context) (List[Sidecar], error) {
	return list[Sidecar](ctx, c, paged("sidecars", nil, "sidecars"))
}

// KeyUsage lists the hours in which a key was used, newest first.
func (c *Client) KeyUsage(ctx context.Context, id string) (List[UsageHour], error) {
	return list[UsageHour](ctx, c, paged("usage", nil, "keys", id, "usage"))
}

// paged makes a request for the list in the field of that name.
func paged(field string, query url.Values, path ...string) Request {
	r := get(field, path...)
	r.query = url.Values{"limit": {strconv.Itoa(pageSize)}}
	maps.Copy(r.query, query)
	return r
}

// list reads all pages.
func list[T any](ctx context.Context, c *Client, r Request) (List[T], error) {
	field := r.answers[0]
	items := []T{}
	var raws [][]byte
	for {
		body, status, err := c.send(ctx, r)
		if err != nil {
			return List[T]{}, err
		}
		page, next, err := decodePage(body, field)
		if err != nil {
			return List[T]{}, invalidResponse(r, status, err)
		}
		for _, raw := range page {
			var item T
			if err := httpapi.Decode(raw, &item); err != nil {
				return List[T]{}, invalidResponse(r, status, err)
			}
			items, raws = append(items, item), append(raws, raw)
		}
		if next == "" {
			break
		}
		if next == r.query.Get("cursor") {
			return List[T]{}, invalidResponse(r, status, errors.New("the next page's cursor is that of this page"))
		}
		r.query.Set("cursor", next)
	}
	whole := bytes.Join(raws, []byte(","))
	return List[T]{Items: items, JSON: credential.NewSecret(`{"` + field + `":[` + string(whole) + `],"next":null}`)}, nil
}

// decodePage reads {"<field>":[…],"next":"…"|null}.
func decodePage(body []byte, field string) (page []jsontext.Value, next string, err error) {
	var fields map[string]jsontext.Value
	if err := httpapi.Decode(body, &fields); err != nil {
		return nil, "", err
	}
	if fields[field].Kind() != jsontext.KindBeginArray {
		return nil, "", fmt.Errorf("missing field %q", field)
	}
	if err := httpapi.Decode(fields[field], &page); err != nil {
		return nil, "", err
	}
	if raw, ok := fields["next"]; ok { // null leaves next as it is
		err = httpapi.Decode(raw, &next)
	}
	return page, next, err
}
