package keycache

// Clone returns the cache of a copied machine: with the same name, poll number, lease and entries, but
// another key API and no loads in flight.
func (c *Cache) Clone(api KeyAPI, o Options) *Cache {
	n := New(api, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	n.cursor, n.revision = c.cursor, c.revision
	n.state.Store(c.state.Load())
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range c.pools {
		from, to := &c.pools[i], &n.pools[i]
		from.mu.Lock()
		for _, id := range []poolID{knownPool, unknownPool} {
			for _, old := range from.all(id) {
				e := *old
				if e.found {
					e.account, e.scopes = n.joinAccount(e.account.id), n.joinScopes(old.record().Scopes)
					e.account.changed.Store(old.account.changed.Load())
				}
				to.store(e)
			}
		}
		from.mu.Unlock()
	}
	return n
}
