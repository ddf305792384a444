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
// many keys there are, but it goes through one run after the other, so that keys
// of one moment lie on one page of their index; what a node does not use is abandoned.
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

const (
	BlockSize = 1024 // how many indices a node is allotted at once
	runSize   = 64   // how many of them lie together
)

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

// shuffled is the block that begins with first: runs in random order, each of them in
// random order.
func (s *Server) shuffled(first int64) ([]int64, error) {
	runs, err := s.permutation(BlockSize / runSize)
	if err != nil {
		return nil, err
	}
	block := make([]int64, 0, BlockSize)
	for _, run := range runs {
		places, err := s.permutation(runSize)
		if err != nil {
			return nil, err
		}
		for _, place := range places {
			block = append(block, first+int64(run*runSize+place))
		}
	}
	return block, nil
}

// permutation returns the numbers below n in random order.
func (s *Server) permutation(n int) ([]int, error) {
	random := make([]byte, 4*n)
	if _, err := io.ReadFull(s.rand, random); err != nil {
		return nil, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	list := make([]int, n)
	for i := range list {
		list[i] = i
		j := int(binary.BigEndian.Uint32(random[4*i:]) % uint32(i+1))
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}
