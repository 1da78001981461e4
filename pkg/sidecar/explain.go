package sidecar

import (
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
)

// inspector returns the state of the cache in the form of an explanation.
func inspector(cache *keycache.Cache) func(credential.Digest) explain.Cache {
	return func(d credential.Digest) explain.Cache {
		i := cache.Inspect(d)
		out := explain.Cache{
			Mode: i.Mode, LeaseLeftMS: i.LeaseLeft.Milliseconds(), StaleLeftMS: i.StaleLeft.Milliseconds(),
			KeyAPIDown: i.ResolvesFail, PollsFail: i.PollsFail,
		}
		if e := i.Entry; e != nil {
			out.Entry = &explain.Cached{
				Pool: "unknown", AgeMS: e.Age.Milliseconds(), Freshness: e.Freshness, Invalidated: e.Invalidated, MayServe: e.MayServe,
			}
			if e.InForce {
				out.Entry.Pool = "credentials"
			}
		}
		return out
	}
}
