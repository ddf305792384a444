package resource

import "sync"

// cacheHalf bounds the tokens remembered: two generations of at most so many, about a kilobyte each.
const cacheHalf = 4096

// digest is the SHA-256 of a token's text.
type digest [32]byte

// cache remembers a bounded number of things. When the new generation is full it becomes the old one, whose members get
// in again when they are seen: about least recently used, for the price of a map.
//
// The tokens in one are those whose signature was right, and nothing about whether they still stand. Only what verified
// enters, so nobody without a key can push others out.
type cache[K comparable, V any] struct {
	half     int
	mu       sync.RWMutex
	new, old map[K]*V
}

func (c *cache[K, V]) get(k K) *V {
	c.mu.RLock()
	v, old := c.new[k], c.old[k]
	c.mu.RUnlock()
	if v == nil && old != nil {
		c.put(k, old)
		return old
	}
	return v
}

func (c *cache[K, V]) put(k K, v *V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.new == nil || len(c.new) >= c.half {
		c.old, c.new = c.new, make(map[K]*V)
	}
	c.new[k] = v
}
