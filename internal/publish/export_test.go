package publish

// Active counts the connections of the pool's bindings. One more place is taken by the
// connection that each of them accepts next.
func (p *Publisher) Active(tenant, pool string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, pt := range p.ports {
		if at.tenant == tenant && at.pool == pool {
			n += max(0, len(pt.slots)-1)
		}
	}
	return n
}
