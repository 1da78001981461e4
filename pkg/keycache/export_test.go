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
		for _, pool := range [][2]*pool{{from.known, to.known}, {from.unknown, to.unknown}} {
			for _, d := range pool[0].Keys() {
				old, _ := pool[0].Peek(d)
				e := *old
				if e.account != nil {
					e.account = n.join(e.rec.Account.ID)
					e.account.changed.Store(old.account.changed.Load())
				}
				pool[1].Add(d, &e)
			}
		}
		from.mu.Unlock()
	}
	return n
}
