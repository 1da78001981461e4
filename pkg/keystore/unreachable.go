package keystore

import "errors"

// ErrUnreachable is in the chain of an engine's Open error if its database cannot be reached
// now, and may be later without a change of the configuration: no connection is made,
// the server is starting or takes no writes, or another process holds the file's lock. It is not for
// a database that answers and refuses: a wrong password, a database that does not exist or is not keyd's,
// a newer schema.
var ErrUnreachable = errors.New("cannot be reached")
