package resource

import "sync"

// cacheHalf bounds the cache: two generations of at most so many tokens, about half a kilobyte each.
const cacheHalf = 4096

// digest is the SHA-256 of a token's text.
type digest [32]byte

// cache remembers tokens whose signature was right, and nothing about whether they still stand. Only what verified
// enters, so nobody without a key can push others out. When the new generation is full it becomes the old one, whose
// members get in again when they are seen: about least recently used, for the price of a map.
type cache struct {
	mu       sync.RWMutex
	new, old map[digest]*token
}

func (c *cache) get(id digest) *token {
	c.mu.RLock()
	t, old := c.new[id], c.old[id]
	c.mu.RUnlock()
	if t == nil && old != nil {
		c.put(id, old)
		return old
	}
	return t
}

func (c *cache) put(id digest, t *token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.new == nil || len(c.new) >= cacheHalf {
		c.old, c.new = c.new, make(map[digest]*token)
	}
	c.new[id] = t
}
