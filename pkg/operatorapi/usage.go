package operatorapi

import (
	"context"
	"time"
)

// UsageHour is how often a key was used, by the reports that came within the hour.
type UsageHour struct {
	Hour    time.Time `json:"hour"` // its beginning
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`
}

// KeyUsage lists the hours in which a key was used, the latest first.
func (c *Client) KeyUsage(ctx context.Context, id string) (List[UsageHour], error) {
	return list[UsageHour](ctx, c, paged("usage", nil, "keys", id, "usage"))
}
