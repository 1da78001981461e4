package main

import (
	"context"
	"strconv"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

func listUsage(ctx context.Context, c *operatorapi.Client, o options) (listing, error) {
	list, err := c.KeyUsage(ctx, o.id)
	return newListing(list, err, []string{"HOUR", "ALLOWED", "DENIED"}, func(u operatorapi.UsageHour) []string {
		return []string{moment(&u.Hour), strconv.FormatInt(u.Allowed, 10), strconv.FormatInt(u.Denied, 10)}
	})
}
