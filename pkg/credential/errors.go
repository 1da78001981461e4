package credential

import "errors"

// ErrRateLimited says that a credential was not looked up, because too many were asked
// for that nobody knows. Nothing was learned about it.
var ErrRateLimited = errors.New("too many look-ups of unknown credentials")
