package oauth

import "sync"

// Recent remembers what was lately asked for, in bounded memory. When the new
// generation is full it becomes the old one, whose members get in again when they
// are asked for: about least recently used, for the price of a map. The zero value
// is empty and ready; it is safe for concurrent use.
type Recent[K comparable, V any] struct {
	mu       sync.RWMutex
	new, old map[K]V
}

// RecentMax bounds each of the two generations.
const RecentMax = 4096

// Get returns what was put under key, if it is remembered.
func (r *Recent[K, V]) Get(key K) (V, bool) {
	r.mu.RLock()
	v, ok := r.new[key]
	old, was := r.old[key]
	r.mu.RUnlock()
	if !ok && was {
		r.Put(key, old)
		return old, true
	}
	return v, ok
}

// Put remembers a value in the place of what was there.
func (r *Recent[K, V]) Put(key K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.new == nil || len(r.new) >= RecentMax {
		r.old, r.new = r.new, map[K]V{}
	}
	r.new[key] = v
}

// Len says how many values are remembered, those of both generations twice.
func (r *Recent[K, V]) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.new) + len(r.old)
}
