package oauth

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// allotment hands out status indices from blocks that belong to this node for
// ever. Inside a block the order is random, so that an index does not say how
// many keys there are; what a node does not use is abandoned.
type allotment struct {
	mu     sync.Mutex
	blocks map[string]block // by kind
}

// block is what is unused of a block. A list may be dropped when all its families are
// over, so a block that nobody used up in a day is abandoned.
type block struct {
	unused []int64
	until  time.Time
}

// BlockSize is how many indices a node is allotted at once.
const BlockSize = 1024

// The kinds of status lists.
const (
	keyList    = "key"
	familyList = "family"
)

func (s *Server) nextIndex(ctx context.Context, p Profile) (int64, error) {
	kind := familyList
	if p.Lasting {
		kind = keyList
	}
	s.indices.mu.Lock()
	defer s.indices.mu.Unlock()
	b := s.indices.blocks[kind]
	if now := s.now(); len(b.unused) == 0 || now.After(b.until) || epochOf(b.unused[0]) < s.cache.epoch.Load() {
		first, err := s.storage.AllotIndices(ctx, s.api.ID, kind, BlockSize, now)
		if err != nil {
			return 0, err
		}
		if b.unused, err = s.shuffled(first); err != nil {
			return 0, err
		}
		if s.indices.blocks == nil {
			s.indices.blocks = map[string]block{}
		}
		b.until = now.Add(BlockKept)
	}
	index := b.unused[len(b.unused)-1]
	b.unused = b.unused[:len(b.unused)-1]
	s.indices.blocks[kind] = b
	return index, nil
}

// epochOf says in which epoch the list of an index was begun. When another begins,
// every index that no key has then is invalid for ever.
func epochOf(index int64) int64 { return index >> (IndexBits + ListBits) }

func (s *Server) shuffled(first int64) ([]int64, error) {
	block := make([]int64, BlockSize)
	random := make([]byte, 4*BlockSize)
	if _, err := io.ReadFull(s.rand, random); err != nil {
		return nil, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	for i := range block {
		block[i] = first + int64(i)
		j := int(binary.BigEndian.Uint32(random[4*i:]) % uint32(i+1))
		block[i], block[j] = block[j], block[i]
	}
	return block, nil
}
